"""Finding out what a text encoder would not read."""

from typing import Any

# Reads on where CLIP's tokenizers end; the pipelines' own default lengths.
_T5_TOKENS = {"StableDiffusion3Pipeline": 256, "FluxPipeline": 512}

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
    """The end of the text that even the longest-reading tokenizer leaves out; "" when all is read."""
    left_out: list[str] = []
    for name in ("tokenizer", "tokenizer_2", "tokenizer_3"):
        tokenizer = getattr(pipeline, name, None)
        if tokenizer is None:
            continue
        limit = tokenizer.model_max_length
        if "T5" in type(tokenizer).__name__:
            limit = _T5_TOKENS.get(type(pipeline).__name__, 512)
        encoding = tokenizer(text, truncation=False, verbose=False, return_offsets_mapping=True)
        special = tokenizer.num_special_tokens_to_add()
        offsets = [pair for pair in encoding["offset_mapping"] if pair[1] > pair[0]]
        room = limit - special
        left_out.append(text[offsets[room][0] :] if len(offsets) > room else "")
    return min(left_out, key=len, default="")
