"""Training in bf16 on CPUs that multiply it in hardware: fp32 weights, bf16 products, attention in fp32."""

from typing import Any, Final

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import Attention
from torch.nn import functional

PRECISIONS: Final[dict[str, torch.dtype | None]] = {"fp32": None, "bf16": torch.bfloat16}


def autocast(device: str, precision: str) -> torch.autocast:
    """Return the context in which a forward pass runs; it holds for the thread that enters it alone."""
    dtype = PRECISIONS[precision]
    return torch.autocast(torch.device(device).type, dtype, enabled=dtype is not None)


class FullPrecisionAttention:
    """Attention whose queries, keys and values are multiplied in fp32.

    On a CPU the backward pass of bf16 attention took as long as the rest of the step.
    """

    def __call__(
        self,
        attn: Attention,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        **_: Any,
    ) -> torch.Tensor:
        """Attend from `hidden_states` (batch x cells x width) to the text's, or to themselves without one."""
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        query, key, value = (
            layer(tokens).float().unflatten(-1, (attn.heads, -1)).transpose(1, 2)
            for layer, tokens in (
                (attn.to_q, hidden_states),
                (attn.to_k, context),
                (attn.to_v, context),
            )
        )
        with torch.autocast(hidden_states.device.type, enabled=False):
            attended = functional.scaled_dot_product_attention(query, key, value, attn_mask=attention_mask)
        result: torch.Tensor = attn.to_out[0](attended.transpose(1, 2).flatten(2))
        return result


def prepare_unet(unet: UNet2DConditionModel, *, device: str, precision: str) -> None:
    """Move a denoiser to its device, in the memory layout and with the attention that training is fastest with."""
    unet.to(device, memory_format=torch.channels_last)
    if precision == "bf16" and torch.device(device).type == "cpu":
        unet.set_attn_processor(FullPrecisionAttention())
