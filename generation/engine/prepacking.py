"""Weights of convolutions and linear layers in the order in which oneDNN's kernels read them.

PyTorch brings them into that order anew at each call, which takes a sixth of a step of the built-in model. Here it is
done once. The kernels stay the same, and so do the pixels, bit for bit: that holds for bfloat16 with channels last,
and nothing else is touched. Where a ReLU follows a convolution, its kernel does both. The operators are those that
torch.compile uses for frozen weights.
"""

import itertools
from typing import Any, Final

import torch
from torch import nn

# Of larger modules the copies would take memory, and the order takes little of a step's time.
LARGEST_BYTES: Final = 256 << 20

# They have no public names; the lock pins the version, and the tests compare the numbers.
_PACK: Final = torch.ops.mkldnn._reorder_convolution_weight.default  # noqa: SLF001
_CONVOLVE: Final = torch.ops.mkldnn._convolution_pointwise.default  # noqa: SLF001
_LINEAR_PACK: Final = torch.ops.mkldnn._reorder_linear_weight.default  # noqa: SLF001
_MULTIPLY: Final = torch.ops.mkldnn._linear_pointwise.default  # noqa: SLF001


class _Packed(nn.Module):
    """What both layers have: a packed copy, made by the first call and gone when the weights change their format."""

    _copy: torch.Tensor | None = None

    def _apply(self, *arguments: Any, **keywords: Any) -> Any:
        self._copy = None
        return super()._apply(*arguments, **keywords)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_copy": None}  # it cannot be copied itself


class PackedConv2d(_Packed, nn.Conv2d):
    """A convolution with a packed copy of its weights."""

    then = "none"  # or "relu"

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        """As `nn.Conv2d` does it."""
        shape = (self.padding, self.stride, self.dilation, self.groups)
        if self._copy is None:
            self._copy = _PACK(self.weight, *shape, pictures.shape)
        convolved: torch.Tensor = _CONVOLVE(pictures, self._copy, self.bias, *shape, self.then, [], "")
        return convolved


class PackedLinear(_Packed, nn.Linear):
    """A linear layer with a packed copy of its weights."""

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """As `nn.Linear` does it."""
        if self._copy is None:
            self._copy = _LINEAR_PACK(self.weight, rows.numel() // self.in_features)
        product: torch.Tensor = _MULTIPLY(rows, self._copy, self.bias, "none", [], "")
        return product


def prepack(module: nn.Module) -> None:
    """Lets a small bfloat16 module's layers keep packed copies of their weights."""
    if sum(each.nbytes for each in module.parameters()) > LARGEST_BYTES:
        return
    for layer in module.modules():
        if any(each.dtype != torch.bfloat16 for each in layer.parameters(recurse=False)):
            continue
        if type(layer) is nn.Linear:
            layer.__class__ = PackedLinear
        elif (
            type(layer) is nn.Conv2d and layer.padding_mode == "zeros" and not isinstance(layer.padding, str)
        ):
            layer.__class__ = PackedConv2d
    for layers in module.modules():
        if isinstance(layers, nn.Sequential):
            _relu_join(layers)


def _relu_join(layers: nn.Sequential) -> None:
    """Has convolutions do the ReLU that follows them, in place."""
    for index, (layer, following) in enumerate(itertools.pairwise(layers)):
        if type(layer) is PackedConv2d and type(following) is nn.ReLU:
            layer.then = "relu"
            layers[index + 1] = nn.Identity()
