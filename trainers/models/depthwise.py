"""Depthwise convolution of maps lower than its kernel with a fast weight gradient; build.py puts it into networks on the CPU.

Encoders for small devices (MobileNet, EfficientNet) end in such maps: 2x4 values of a 64x128 image, under kernels of 3x3 and
5x5. oneDNN, as of torch 2.15, has no special kernel for their weight gradient on the CPU and takes at least ten times as long
(15 to 50 ms instead of 0.3 to 3, for 576 channels and a batch of 32). Padding the maps, and cutting a larger kernel into
overlapping ones of 3x3, avoids that. benchmarks/depthwise.py measures the gain.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.grad import conv2d_input, conv2d_weight

PART = 3
"""Side of the kernels that a larger one is cut into."""


def use_fast_depthwise(network: nn.Module) -> None:
    """Make depthwise convolutions of small maps faster; weights, names and, up to rounding, results do not change."""
    for layer in network.modules():
        if type(layer) is nn.Conv2d and _is_taken(layer):
            layer.__class__ = _DepthwiseConv2d  # keeps the weights and their names


def _is_taken(layer: nn.Conv2d) -> bool:
    side = layer.kernel_size[0]
    return (
        layer.groups == layer.in_channels == layer.out_channels > 1
        and layer.kernel_size == (side, side)
        and side >= PART
        and side % 2 == 1
        and layer.padding == (side // 2, side // 2)
        and layer.stride[0] == layer.stride[1]
        and layer.dilation == (1, 1)
        and layer.padding_mode == "zeros"
    )


class _DepthwiseConv2d(nn.Conv2d):
    """torch's layer, with another gradient for maps lower than the kernel, in float32 on the CPU."""

    def forward(self, maps: Tensor) -> Tensor:
        is_measured = maps.device.type == "cpu" and maps.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
        if not is_measured or maps.shape[-2] >= self.kernel_size[0]:
            return super().forward(maps)
        convolved: Tensor = _ConvolveDepthwise.apply(maps, self.weight, self.stride[0])
        return convolved if self.bias is None else convolved + self.bias[:, None, None]


class _ConvolveDepthwise(torch.autograd.Function):
    """(N, C, H, W), kernels (C, 1, K, K), stride -> (N, C, ceil(H / stride), ceil(W / stride)); zeros around the maps."""

    @staticmethod
    def forward(context: Any, maps: Tensor, kernels: Tensor, stride: int) -> Tensor:
        context.save_for_backward(maps, kernels)
        context.stride = stride
        return F.conv2d(maps, kernels, stride=stride, padding=kernels.shape[-1] // 2, groups=len(kernels))

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        maps, kernels = context.saved_tensors
        of_maps = of_kernels = None
        if context.needs_input_grad[0]:
            padding, groups = kernels.shape[-1] // 2, len(kernels)
            size = maps.shape
            of_maps = conv2d_input(size, kernels, gradient, context.stride, padding, groups=groups)  # type: ignore[no-untyped-call]
        if context.needs_input_grad[1]:
            of_kernels = _kernel_gradient(maps, gradient, kernels, stride=context.stride)
        return of_maps, of_kernels, None


def _kernel_gradient(maps: Tensor, gradient: Tensor, kernels: Tensor, *, stride: int) -> Tensor:
    """Gradient of the kernels, (C, 1, K, K), from the gradient of the output."""
    channels, _, side, _ = kernels.shape
    padded = F.pad(maps, [side // 2] * 4)
    height, width = ((length - 1) * stride + PART for length in gradient.shape[-2:])
    offsets = [*range(0, side - PART, PART - 1), side - PART]
    found = torch.empty_like(kernels)
    for y in offsets:
        for x in offsets:  # where parts overlap, both find the same
            part = padded[:, :, y : y + height, x : x + width].contiguous(memory_format=torch.channels_last)
            of_part = conv2d_weight(part, (channels, 1, PART, PART), gradient, stride, groups=channels)  # type: ignore[no-untyped-call]
            found[:, :, y : y + PART, x : x + PART] = of_part
    return found
