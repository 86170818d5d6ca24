"""A step cache: where a step of the denoiser brings little new, what most of its blocks did last is taken again."""

import contextlib
from collections.abc import Iterator
from typing import Any, Final

import torch
from diffusers import CacheMixin, FirstBlockCacheConfig
from diffusers.hooks import HookRegistry, ModelHook
from diffusers.hooks.first_block_cache import FBCBlockHook

from generation.engine.errors import EngineError

# How far what the first block adds may be from what it added at the last whole step, as a part of that, for the other
# blocks to be left out: the usual value for FLUX.1, in diffusers' guide to ParaAttention, where the cache comes from.
THRESHOLD: Final = 0.08

_BY_PROMPT: Final = "calls_by_prompt"


class _ByPrompt(ModelHook):
    """Tells a denoiser's calls with the prompt from those with the negative one, each of which has a cache of its own.

    Some pipelines do so themselves, to the same effect; those that start from a picture or edit FLUX.1's do not.
    """

    def __init__(self) -> None:
        super().__init__()
        # Kept, so that no other tensor can come to lie where one was.
        self._prompts: list[torch.Tensor] = []

    def new_forward(self, module: Any, *arguments: Any, **keywords: Any) -> Any:
        """The denoiser's own, within the prompt's cache."""
        prompt = keywords["encoder_hidden_states"]
        known = next((index for index, each in enumerate(self._prompts) if each is prompt), None)
        if known is None:
            known = len(self._prompts)
            self._prompts.append(prompt)
        with module.cache_context(f"prompt {known}"):
            return self.fn_ref.original_forward(*arguments, **keywords)


@contextlib.contextmanager
def accelerated(pipeline: Any, acceleration: str) -> Iterator[None]:
    """Has a pipeline's denoiser run so for the length of a block, in which it serves one call of the pipeline.

    Nothing of it is left behind, however the block ends. Raises EngineError where the denoiser has no such cache.
    """
    if acceleration == "none":
        yield
        return
    denoiser = getattr(pipeline, "transformer", None)
    if not isinstance(denoiser, CacheMixin):
        raise EngineError(f"{type(pipeline).__name__} has no {acceleration}.")
    denoiser.enable_cache(FirstBlockCacheConfig(threshold=THRESHOLD))
    registry = HookRegistry.check_if_exists_or_initialize(denoiser)
    registry.register_hook(_ByPrompt(), _BY_PROMPT)
    try:
        yield
    finally:
        registry.remove_hook(_BY_PROMPT, recurse=False)
        # Its tensors at once: the hooks hold each other.
        registry.reset_stateful_hooks()
        denoiser.disable_cache()


def is_left_out(block: Any) -> bool:
    """Whether a block of a denoiser that is being called is left out of this step."""
    registry = getattr(block, "_diffusers_hook", None)
    hooks = registry.hooks.values() if registry else ()
    return any(
        isinstance(hook, FBCBlockHook) and not hook.state_manager.get_state().should_compute for hook in hooks
    )
