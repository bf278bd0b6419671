"""Upsampling and convolution in one step with fewer multiplications; build.py puts it into U-Nets on the CPU.

Nearest-neighbour upsampling copies every value four times, so the nine taps of a 3x3 convolution see only four values. Adding up
the weights first gives a transposed convolution of stride 2 with a 4x4 kernel: the same sum with four multiplications per output
pixel instead of nine. With few pixels per channel, nine products with differences of neighbours give four output pixels.
benchmarks/upsample.py measures the gain.
"""

from typing import Any

import segmentation_models_pytorch.decoders.unet.decoder as smp_unet
import torch
import torch.nn.functional as F
from torch import Tensor, nn

FEW_PIXELS = 48
"""Pixels of a batch per channel below which differences are faster."""


def upsample_and_convolve(features: Tensor, weight: Tensor) -> Tensor:
    """Equal ``conv2d(interpolate(features, scale_factor=2, mode="nearest"), weight, padding=1)`` up to rounding.

    features: (N, C, H, W) float; weight: (D, C, 3, 3) float. Returns (N, D, 2H, 2W).
    """
    padded = F.pad(weight, (1, 1, 1, 1))
    rows = padded[:, :, :-1] + padded[:, :, 1:]
    kernel = (rows[..., :-1] + rows[..., 1:]).flip(2, 3).transpose(0, 1)
    return F.conv_transpose2d(features, kernel.contiguous(memory_format=torch.channels_last), stride=2, padding=1)


_SUMS = torch.tensor([[1.0, 0, 0], [1, 1, 1], [0, 0, 1]])
"""(3, 3): taps of a row whose sums multiply the difference to the previous pixel, the pixel, the difference to the next one."""


def upsample_and_convolve_by_differences(features: Tensor, weight: Tensor) -> Tensor:
    """Equal ``upsample_and_convolve`` up to rounding, with nine multiplications for four output pixels instead of sixteen.

    As in Winograd's short convolutions: with taps a, b, c a row's ``x[i]`` becomes two output pixels,
    ``a (x[i-1] - x[i]) + (a + b + c) x[i]`` and ``(a + b + c) x[i] + c (x[i+1] - x[i])``, from three products; columns likewise.
    Moves nine maps instead of one, so it is faster only with few pixels per channel.
    features: (N, C, H, W) float; weight: (D, C, 3, 3) float. Returns (N, D, 2H, 2W).
    """
    outputs, channels = weight.shape[:2]
    sums = _SUMS.to(weight)
    combinations = torch.einsum("ar,bs->abrs", sums, sums).reshape(9, 9)
    factors = combinations @ weight.permute(2, 3, 0, 1).reshape(9, outputs * channels)
    doubled: Tensor = _MultiplyDifferences.apply(features, factors.view(9, outputs, channels))
    return doubled


class _MultiplyDifferences(torch.autograd.Function):
    """features (N, C, H, W), factors (9, D, C) -> (N, D, 2H, 2W); the nine maps are (3, 3, N, H, W, channels)."""

    @staticmethod
    def forward(context: Any, features: Tensor, factors: Tensor) -> Tensor:
        num_images, channels, height, width = features.shape
        differences = _take_differences(features.permute(0, 2, 3, 1))
        products = torch.bmm(differences.view(9, -1, channels), factors.transpose(1, 2))
        products = products.view(3, 3, num_images, height, width, -1)
        doubled = products.new_empty(num_images, height, 2, width, 2, products.shape[-1])
        for y, above_or_below in enumerate((0, 2)):
            rows = products[1] + products[above_or_below]
            for x, left_or_right in enumerate((0, 2)):
                torch.add(rows[1], rows[left_or_right], out=doubled[:, :, y, :, x])
        context.save_for_backward(differences, factors)
        return doubled.view(num_images, 2 * height, 2 * width, -1).permute(0, 3, 1, 2)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        differences, factors = context.saved_tensors
        _, _, num_images, height, width, channels = differences.shape
        of_doubled = gradient.permute(0, 2, 3, 1).reshape(num_images, height, 2, width, 2, -1)
        of_products = of_doubled.new_empty(3, 3, num_images, height, width, of_doubled.shape[-1])
        for row, ys in enumerate(((0,), (0, 1), (1,))):
            for column, xs in enumerate(((0,), (0, 1), (1,))):
                first, *others = (of_doubled[:, :, y, :, x] for y in ys for x in xs)
                of_products[row, column] = first
                for other in others:
                    of_products[row, column] += other
        of_products = of_products.view(9, -1, of_doubled.shape[-1])
        of_factors = torch.bmm(of_products.transpose(1, 2), differences.view(9, -1, channels))
        of_differences = torch.bmm(of_products, factors).view(differences.shape)
        return _add_up_differences(of_differences).permute(0, 3, 1, 2), of_factors


def _take_differences(maps: Tensor) -> Tensor:
    """(N, H, W, C) -> (3, 3, N, H, W, C): differences to the row above, none, to the row below; likewise of columns."""
    taken = maps.new_empty(3, 3, *maps.shape)
    taken[1, 1] = maps
    _take_along(1, taken[:, 1])
    for rows in taken:
        _take_along(2, rows)
    return taken


def _take_along(axis: int, taken: Tensor) -> None:
    """Fill in the differences before and behind the maps in the middle, with zeros beyond their borders."""
    before, maps, behind = taken
    last = maps.shape[axis] - 1
    first, second = maps.narrow(axis, 0, last), maps.narrow(axis, 1, last)
    torch.sub(first, second, out=before.narrow(axis, 1, last))
    torch.neg(maps.narrow(axis, 0, 1), out=before.narrow(axis, 0, 1))
    torch.sub(second, first, out=behind.narrow(axis, 0, last))
    torch.neg(maps.narrow(axis, last, 1), out=behind.narrow(axis, last, 1))


def _add_up_differences(gradients: Tensor) -> Tensor:
    """Gradient of ``_take_differences``: (3, 3, N, H, W, C), which is overwritten, -> (N, H, W, C)."""
    for rows in gradients:
        _add_up_along(2, rows)
    _add_up_along(1, gradients[:, 1])
    return gradients[1, 1]


def _add_up_along(axis: int, gradients: Tensor) -> None:
    before, maps, behind = gradients
    last = maps.shape[axis] - 1
    maps -= before
    maps -= behind
    maps.narrow(axis, 0, last).add_(before.narrow(axis, 1, last))
    maps.narrow(axis, 1, last).add_(behind.narrow(axis, 0, last))


def use_fast_upsampling(network: nn.Module) -> None:
    """Make the decoder blocks of a U-Net faster; weights, their names and, up to rounding, results do not change."""
    for block in network.modules():
        is_nearest = type(block) is smp_unet.UnetDecoderBlock and block.interpolation_mode == "nearest"
        if is_nearest and isinstance(block.get_submodule("attention1.attention"), nn.Identity):
            block.__class__ = _FastBlock  # keeps the weights and their names


class _FastBlock(smp_unet.UnetDecoderBlock):  # type: ignore[misc]  # smp publishes no types
    """smp's block: upsamples the features, joins the skip connection, convolves twice."""

    def forward(
        self, feature_map: Tensor, target_height: int, target_width: int, skip_connection: Tensor | None = None
    ) -> Tensor:
        num_images, channels, height, width = feature_map.shape
        is_doubled = (target_height, target_width) == (2 * height, 2 * width)
        is_measured = feature_map.device.type == "cpu" and not torch.is_autocast_enabled("cpu")  # not on a GPU, not in bf16
        if not is_doubled or not is_measured:
            plain: Tensor = super().forward(feature_map, target_height, target_width, skip_connection)
            return plain
        convolution, *norm_and_activation = self.conv1
        has_few_pixels = num_images * height * width < FEW_PIXELS * channels
        double = upsample_and_convolve_by_differences if has_few_pixels else upsample_and_convolve
        joined = double(feature_map, convolution.weight[:, :channels])
        if skip_connection is not None and skip_connection.shape[1] > 0:  # some encoders have nothing at full size
            joined = joined + F.conv2d(skip_connection, convolution.weight[:, channels:], padding=1)
        if convolution.bias is not None:
            joined = joined + convolution.bias[:, None, None]
        for layer in norm_and_activation:
            joined = layer(joined)
        doubled: Tensor = self.attention2(self.conv2(joined))
        return doubled
