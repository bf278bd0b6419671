"""Depthwise convolutions of small maps: torch's results and gradients, and torch's own layer wherever it is as quick."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from trainers.config import TrainConfig
from trainers.models.build import build_model
from trainers.models.depthwise import use_fast_depthwise


def gradients_of(layer: nn.Conv2d, maps: torch.Tensor, weighting: torch.Tensor) -> list[torch.Tensor]:
    """The result, and the gradients of a weighted sum of it: of the maps and of the layer's parameters."""
    inputs = maps.clone().requires_grad_()
    result = layer(inputs)
    (result * weighting).sum().backward()
    return [result.detach(), inputs.grad, *(parameter.grad for parameter in layer.parameters())]  # type: ignore[list-item]


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(
    ("side", "size"), [(3, (1, 1)), (3, (1, 2)), (3, (2, 4)), (5, (2, 4)), (5, (4, 8)), (5, (3, 3)), (7, (5, 2)), (9, (2, 4))]
)
def test_results_and_gradients_are_torchs(side: int, size: tuple[int, int], stride: int, bias: bool) -> None:
    """Up to rounding, for every kernel and stride, on maps as small as one pixel."""
    torch.manual_seed(0)
    layer = nn.Conv2d(6, 6, side, stride=stride, padding=side // 2, groups=6, bias=bias)
    ours = nn.Conv2d(6, 6, side, stride=stride, padding=side // 2, groups=6, bias=bias)
    ours.load_state_dict(layer.state_dict())
    use_fast_depthwise(ours)
    assert type(ours) is not nn.Conv2d
    maps = torch.randn(3, 6, *size).contiguous(memory_format=torch.channels_last)
    weighting = torch.randn_like(layer(maps))
    expected, found = gradients_of(layer, maps, weighting), gradients_of(ours, maps, weighting)
    for theirs, mine in zip(expected, found, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)


def test_double_precision_gradients_are_exact() -> None:
    """What is not float32 is torch's own, which finite differences confirm."""
    layer = nn.Conv2d(2, 2, 3, padding=1, groups=2).double()
    use_fast_depthwise(layer)
    assert torch.autograd.gradcheck(layer, torch.randn(1, 2, 2, 3, dtype=torch.float64, requires_grad=True))


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(4, 4, 3, padding=1),
        nn.Conv2d(4, 8, 3, padding=1, groups=4),
        nn.Conv2d(4, 4, 1, groups=4),
        nn.Conv2d(4, 4, 3, groups=4),
        nn.Conv2d(4, 4, 3, padding=2, dilation=2, groups=4),
        nn.Conv2d(4, 4, (3, 5), padding=(1, 2), groups=4),
        nn.Conv2d(4, 4, 3, padding=1, groups=4, padding_mode="reflect"),
        nn.Conv2d(4, 4, 4, padding=2, groups=4),
    ],
)
def test_other_convolutions_are_left_alone(layer: nn.Conv2d) -> None:
    """Full ones, dilated ones, those with other borders."""
    use_fast_depthwise(layer)
    assert type(layer) is nn.Conv2d


def test_maps_as_high_as_the_kernel_take_torchs_way() -> None:
    """Bit for bit, where torch is as quick."""
    torch.manual_seed(0)
    layer = nn.Conv2d(4, 4, 3, padding=1, groups=4, bias=False)
    maps = torch.randn(2, 4, 3, 5)
    expected = gradients_of(layer, maps, torch.ones(2, 4, 3, 5))
    layer.weight.grad = None
    use_fast_depthwise(layer)
    assert all(map(torch.equal, gradients_of(layer, maps, torch.ones(2, 4, 3, 5)), expected))


def test_encoders_get_it_and_keep_their_names() -> None:
    """MobileNet's depthwise layers, with a state dict that torch's own layers load."""
    network = build_model(TrainConfig(arch="Unet", encoder="mobilenet_v2"), in_channels=1, num_classes=5)
    taken = [layer for layer in network.modules() if type(layer).__name__ == "_DepthwiseConv2d"]
    assert len(taken) == 17
    assert all(isinstance(layer, nn.Conv2d) for layer in taken)
