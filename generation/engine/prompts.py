"""Finding out what a text encoder would not read."""

import contextlib
import inspect
from typing import Any

# Of what is not read, in a warning.
MAX_SHOWN = 200


def prompt_warnings(pipeline: Any, **prompts: str) -> list[dict[str, Any]]:
    """A warning for each prompt (by parameter name) that is longer than every tokenizer of the pipeline reads.

    `used` is what is left of the prompt.
    """
    return [
        {
            "param": name,
            "reason": f"It has more tokens than this model reads; not read: {_shown(cut)}.",
            "used": text[: len(text) - len(cut)].rstrip() if text.endswith(cut) else None,
        }
        for name, text in prompts.items()
        if text and (cut := _cut_off(pipeline, text))
    ]


def _shown(text: str) -> str:
    """A text as a warning repeats it: its beginning, if it is long."""
    return repr(text) if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]!r}… ({len(text)} characters)"


def _cut_off(pipeline: Any, text: str) -> str:
    """The end of the text that even the longest-reading tokenizer leaves out; "" when all is read, or nobody can tell.

    A warning may be missed; it may not end the job.
    """
    left_out: list[str] = []
    for name in ("tokenizer", "tokenizer_2", "tokenizer_3"):
        tokenizer = getattr(pipeline, name, None)
        if tokenizer is not None:
            with contextlib.suppress(Exception):
                left_out.append(_left_out(tokenizer, text, _limit(pipeline, tokenizer)))
    return min(left_out, key=len, default="")


def _limit(pipeline: Any, tokenizer: Any) -> int:
    """How many tokens are read: CLIP's as many as its tokenizer says, others as the call's default says."""
    call = inspect.signature(pipeline.__call__).parameters
    if "CLIP" in type(tokenizer).__name__ or "max_sequence_length" not in call:
        return int(tokenizer.model_max_length)
    return int(call["max_sequence_length"].default)


def _left_out(tokenizer: Any, text: str, limit: int) -> str:
    tokenizer = getattr(tokenizer, "tokenizer", tokenizer)  # a processor of text and pictures
    encoding = tokenizer(text, truncation=False, verbose=False, return_offsets_mapping=True)
    offsets = [pair for pair in encoding["offset_mapping"] if pair[1] > pair[0]]
    room = limit - tokenizer.num_special_tokens_to_add()
    return text[offsets[room][0] :] if len(offsets) > room else ""
