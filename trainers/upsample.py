"""Doubling a feature map and convolving it, in one step that multiplies less; models.py puts it into U-Nets on the CPU.

Upsampling to the nearest neighbour copies every value four times, and a 3x3 convolution then multiplies copies: the nine taps of
an output pixel meet four values only. Adding up the weights first gives a transposed convolution of stride 2 with a 4x4 kernel,
which is the same sum with four multiplications instead of nine; where there are more channels than pixels a matrix product
computes it quicker. benchmarks/upsample.py measures what that is worth.
"""

from __future__ import annotations

import segmentation_models_pytorch.decoders.unet.decoder as smp_unet
import torch
import torch.nn.functional as F
from torch import Tensor, nn


def upsample_and_convolve(features: Tensor, weight: Tensor) -> Tensor:
    """Equal ``conv2d(interpolate(features, scale_factor=2, mode="nearest"), weight, padding=1)`` up to rounding.

    features: (N, C, H, W) float; weight: (D, C, 3, 3) float. Returns (N, D, 2H, 2W).
    """
    padded = F.pad(weight, (1, 1, 1, 1))
    rows = padded[:, :, :-1] + padded[:, :, 1:]
    kernel = (rows[..., :-1] + rows[..., 1:]).flip(2, 3).transpose(0, 1)
    return F.conv_transpose2d(features, kernel.contiguous(memory_format=torch.channels_last), stride=2, padding=1)


_TAPS = torch.tensor([[0.0, 0, 1], [0, 1, 1], [1, 1, 0], [1, 0, 0]])
"""(4, 3): which taps of a row of the 3x3 kernel add up to each tap of the 4x4 kernel."""


def upsample_and_convolve_by_matmul(features: Tensor, weight: Tensor) -> Tensor:
    """Equal ``upsample_and_convolve`` up to rounding, as one matrix product whose columns are added up where they overlap.

    The quicker of the two where the channels are more than the pixels. features: (N, C, H, W) float; weight: (D, C, 3, 3) float.
    Returns (N, D, 2H, 2W).
    """
    num_images, channels, height, width = features.shape
    taps = _TAPS.to(weight)
    combinations = torch.einsum("ar,bs->abrs", taps, taps).reshape(16, 9)
    kernel = combinations @ weight.permute(0, 2, 3, 1).reshape(len(weight), 9, channels)  # (D, 16, C)
    products = features.permute(0, 2, 3, 1).reshape(num_images, height * width, channels) @ kernel.reshape(-1, channels).t()
    return F.fold(products.transpose(1, 2), (2 * height, 2 * width), kernel_size=4, stride=2, padding=1)


def cheapen_upsampling(network: nn.Module) -> None:
    """Let the decoder blocks of a U-Net multiply less; weights, their names and, up to rounding, results stay as they are."""
    for block in network.modules():
        if type(block) is smp_unet.UnetDecoderBlock and block.interpolation_mode == "nearest" and _has_no_attention(block):
            block.__class__ = _CheapBlock  # the only way to keep the names of its weights without building it again


def _has_no_attention(block: nn.Module) -> bool:
    return isinstance(block.get_submodule("attention1.attention"), nn.Identity)


class _CheapBlock(smp_unet.UnetDecoderBlock):  # type: ignore[misc]  # smp publishes no types
    """smp's block: doubles the features, joins the skip connection, convolves twice."""

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
        has_few_pixels = num_images * height * width < channels
        double = upsample_and_convolve_by_matmul if has_few_pixels else upsample_and_convolve
        joined = double(feature_map, convolution.weight[:, :channels])
        if skip_connection is not None and skip_connection.shape[1] > 0:  # some encoders have nothing at full size
            joined = joined + F.conv2d(skip_connection, convolution.weight[:, channels:], padding=1)
        if convolution.bias is not None:
            joined = joined + convolution.bias[:, None, None]
        for layer in norm_and_activation:
            joined = layer(joined)
        doubled: Tensor = self.attention2(self.conv2(joined))
        return doubled
