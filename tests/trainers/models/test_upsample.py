"""trainers.models.upsample: the same numbers as smp's own blocks, with fewer multiplications."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import segmentation_models_pytorch as smp
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from trainers.models.upsample import upsample_and_convolve, upsample_and_convolve_by_differences, use_fast_upsampling


@pytest.mark.parametrize("double", [upsample_and_convolve, upsample_and_convolve_by_differences])
@settings(max_examples=25, deadline=None)
@given(
    images=st.integers(1, 3),
    channels=st.integers(1, 5),
    filters=st.integers(1, 4),
    height=st.integers(1, 5),
    width=st.integers(1, 5),
    seed=st.integers(0, 1000),
)
def test_it_equals_interpolation_and_convolution(
    double: Callable[[Tensor, Tensor], Tensor], images: int, channels: int, filters: int, height: int, width: int, seed: int
) -> None:
    """Values and both gradients are those of the two operations that it replaces, borders included."""
    random = torch.Generator().manual_seed(seed)
    features = torch.randn(images, channels, height, width, dtype=torch.float64, generator=random, requires_grad=True)
    weight = torch.randn(filters, channels, 3, 3, dtype=torch.float64, generator=random, requires_grad=True)

    found = double(features, weight)
    expected = F.conv2d(F.interpolate(features, scale_factor=2, mode="nearest"), weight, padding=1)

    torch.testing.assert_close(found, expected)
    pull = torch.randn(expected.shape, dtype=torch.float64, generator=random)
    for ours, theirs in zip(
        torch.autograd.grad(found, (features, weight), pull),
        torch.autograd.grad(expected, (features, weight), pull),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("options", [{}, {"decoder_use_norm": False}, {"decoder_attention_type": "scse"}])
def test_a_unet_gives_the_same_logits_and_gradients(options: dict[str, object]) -> None:
    """A whole U-Net computes the same, with biases, and with attention, whose blocks are left alone."""
    torch.manual_seed(0)
    theirs = smp.Unet(
        "resnet18", encoder_weights=None, in_channels=1, classes=3, decoder_channels=(48, 32, 16, 16, 16), **options
    )
    ours = copy.deepcopy(theirs)
    use_fast_upsampling(ours)
    images = torch.randn(8, 1, 64, 96)

    torch.testing.assert_close(ours(images), theirs(images), rtol=1e-4, atol=1e-4)
    for model in (ours, theirs):
        model(images).square().mean().backward()
    assert [name for name, _ in ours.named_parameters()] == [name for name, _ in theirs.named_parameters()]
    for mine, original in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, original.grad, rtol=1e-2, atol=1e-3)


def test_blocks_of_a_unet_are_replaced_unless_they_have_attention() -> None:
    """The rewriting takes place where it is meant to, so that the tests above test it."""
    plain = smp.Unet("resnet18", encoder_weights=None, in_channels=1, classes=3)
    attending = smp.Unet("resnet18", encoder_weights=None, in_channels=1, classes=3, decoder_attention_type="scse")
    for model, expected in ((plain, "_FastBlock"), (attending, "UnetDecoderBlock")):
        use_fast_upsampling(model)
        assert {type(block).__name__ for block in model.decoder.blocks} == {expected}
