"""Prompts with weights, and longer than a text encoder reads at once, as A1111's users write them.

`(words)` count 1.1 times, `(words:1.3)` as often as it says, `[words]` less by 1.1; brackets nest, and a backslash in
front of one makes it a bracket. `BREAK` begins a new chunk. Chunks of as many tokens as an encoder reads are read one
by one by the pipeline itself, and what it makes of them is put side by side. For U-Nets with CLIP's encoders.
"""

import functools
import inspect
import re
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, Final

import torch

STEP: Final = 1.1
# So much of a weight is no emphasis any more.
MAX_WEIGHT: Final = 10.0
# Deeper brackets than anybody writes: more would not be a number.
_FINITE: Final = 1e300
_STATED: Final = re.compile(r":\s*(\d{1,4}(?:\.\d{1,8})?|\.\d{1,8})\s*\Z")
_BREAK: Final = re.compile(r"\s*\bBREAK\b\s*")
_ESCAPABLE: Final = "()[]\\"
_OF_CLIP: Final = ("tokenizer", "tokenizer_2")

Weighted = list[tuple[str, float]]
# Token and weight, for each token of a chunk but its ends.
Chunk = list[tuple[int, float]]


def weights_read(prompt: str) -> Weighted:
    """The parts of a prompt and how much each counts; brackets that are left open close at the end."""
    # Each part with its bracket; each bracket with the one around it, and its factor. The first is none.
    parts: list[tuple[list[str], int]] = [([], 0)]
    brackets: list[tuple[int, str]] = [(0, "")]
    factors = [1.0]
    inside = 0

    def enter(bracket: int) -> None:
        nonlocal inside
        inside = bracket
        parts.append(([], bracket))

    index = 0
    while index < len(prompt):
        letter = prompt[index]
        if letter == "\\" and prompt[index + 1 : index + 2] in tuple(_ESCAPABLE):
            index += 1
            parts[-1][0].append(prompt[index])
        elif letter in "([":
            brackets.append((inside, letter))
            factors.append(STEP if letter == "(" else 1 / STEP)
            enter(len(brackets) - 1)
        elif letter == ")" and brackets[inside][1] == "(":
            text = "".join(parts[-1][0])
            if stated := _STATED.search(text):
                parts[-1][0][:] = text[: stated.start()]
                factors[inside] = float(stated[1])
            enter(brackets[inside][0])
        elif letter == "]" and brackets[inside][1] == "[":
            enter(brackets[inside][0])
        else:
            parts[-1][0].append(letter)
        index += 1
    for bracket, (outer, _) in enumerate(brackets[1:], start=1):
        factors[bracket] = min(factors[bracket] * factors[outer], _FINITE)
    weighed = [("".join(text), min(factors[bracket], MAX_WEIGHT)) for text, bracket in parts if text]
    return weighed or [("", 1.0)]


def chunks_of(tokenizer: Any, weighted: Weighted) -> list[Chunk]:
    """The tokens of a prompt, in chunks of as many as a text encoder reads."""
    room = tokenizer.model_max_length - tokenizer.num_special_tokens_to_add()
    chunks: list[Chunk] = [[]]
    for text, weight in weighted:
        for number, piece in enumerate(_BREAK.split(text)):
            if number:
                chunks.append([])
            for token in tokenizer(piece, add_special_tokens=False, verbose=False).input_ids:
                if len(chunks[-1]) == room:
                    chunks.append([])
                chunks[-1].append((token, weight))
    return chunks


class _ChunkReader:
    """Stands in for a tokenizer: reads the names of chunks."""

    def __init__(self, tokenizer: Any, chunks: dict[str, Chunk]) -> None:
        self._tokenizer = tokenizer
        self._chunks = chunks

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)

    def __call__(self, text: Any, **options: Any) -> SimpleNamespace:
        names = [text] if isinstance(text, str) else text
        ids = torch.tensor([self._whole([token for token, _ in self._chunks[name]]) for name in names])
        return SimpleNamespace(input_ids=ids, attention_mask=torch.ones_like(ids))

    def _whole(self, tokens: list[int]) -> list[int]:
        tokenizer = self._tokenizer
        ends = [tokenizer.bos_token_id, *tokens, tokenizer.eos_token_id]
        return ends + [tokenizer.pad_token_id] * (tokenizer.model_max_length - len(ends))


def encode_weighted(pipeline: Any) -> None:
    """Has a row's pipeline read weights and chunks in its prompts; a plain short one gives the same to the bit."""
    inner = pipeline.encode_prompt
    signature = inspect.signature(inner)
    readers = {name: reader for name in _OF_CLIP if (reader := getattr(pipeline, name, None)) is not None}

    @functools.wraps(inner)
    def encode_prompt(*arguments: Any, **keywords: Any) -> Any:
        call = signature.bind(*arguments, **keywords).arguments
        texts = {"": _text(call["prompt"]), "-": _text(call.get("negative_prompt") or "")}
        chunks = {
            name: {sign: chunks_of(reader, weights_read(text)) for sign, text in texts.items()}
            for name, reader in readers.items()
        }
        count = max(len(found) for of_reader in chunks.values() for found in of_reader.values())
        table: dict[str, dict[str, Chunk]] = {
            name: {"": []}
            | {
                f"{sign}{number}": found[number] if number < len(found) else []
                for sign, found in of_reader.items()
                for number in range(count)
            }
            for name, of_reader in chunks.items()
        }
        for name, reader in readers.items():
            pipeline.__dict__[name] = _ChunkReader(reader, table[name])
        try:
            results = [inner(**_named(call, number)) for number in range(count)]
        finally:
            pipeline.__dict__.update(readers)
        first = next(iter(table.values()))
        joined = [
            _joined(
                [result[index] for result in results], [first[f"{sign}{number}"] for number in range(count)]
            )
            for index, sign in enumerate(("", "-"))
        ]
        return (*joined, *results[0][2:])

    pipeline.__dict__["encode_prompt"] = encode_prompt


def _text(prompt: Any) -> str:
    return prompt if isinstance(prompt, str) else str(prompt[0])


def _named(call: dict[str, Any], number: int) -> dict[str, Any]:
    """The same call with the names of chunks for its prompts."""
    negative = {} if call.get("negative_prompt") is None else {"negative_prompt": f"-{number}"}
    return call | {"prompt": str(number)} | negative


def _joined(embeddings: Sequence[torch.Tensor | None], chunks: Sequence[Chunk]) -> torch.Tensor | None:
    """What encoders made of chunks, weighed and side by side; None where a pipeline made nothing of them."""
    found = [
        _weighed(each, chunk) for each, chunk in zip(embeddings, chunks, strict=True) if each is not None
    ]
    return torch.cat(found, dim=1) if found else None


def _weighed(embeddings: torch.Tensor, chunk: Chunk) -> torch.Tensor:
    """Each token's numbers times its weight, with the mean of all of them as it was."""
    if all(weight == 1 for _, weight in chunk):
        return embeddings
    weights = torch.ones(embeddings.shape[1], device=embeddings.device, dtype=torch.float32)
    weights[1 : 1 + len(chunk)] = torch.tensor([weight for _, weight in chunk])
    weighed = embeddings.float() * weights[:, None]
    mean = weighed.mean()
    scale = embeddings.float().mean() / mean if mean else 1.0
    return (weighed * scale).to(embeddings.dtype)
