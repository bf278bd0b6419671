from __future__ import annotations

import inspect
import subprocess
import sys
import time
from typing import Any

import pytest
import segmentation_models_pytorch as smp
import torch
from pydantic import ValidationError

from trainers.config import TrainConfig
from trainers.config.names import ARCHITECTURES, ENCODER_PREFIXES, ENCODERS
from trainers.errors import ConfigError
from trainers.models.build import AnySize, build_model

pytestmark = pytest.mark.usefixtures("one_thread")


def build(arch: str = "Unet", encoder: str = "resnet18", *, in_channels: int = 1, **fields: Any) -> torch.nn.Module:
    """Build a network of five classes."""
    config = TrainConfig.model_validate({"arch": arch, "encoder": encoder, **fields})
    return build_model(config, in_channels=in_channels, num_classes=5)


def test_architectures_are_the_library_s() -> None:
    """The names that a sweep file may use are exactly those of the library."""
    assert set(ARCHITECTURES) == {a.__name__ for a in smp.MODEL_ARCHITECTURES_MAPPING.values()}


def test_encoders_are_the_library_s() -> None:
    """The names that a sweep file may use are exactly those of the library, besides what it hands to timm."""
    assert set(ENCODERS) == {name for name in smp.encoders.get_encoder_names() if not name.startswith(ENCODER_PREFIXES)}


@pytest.mark.parametrize("arch", [a for a in ARCHITECTURES if a != "DPT"])
def test_every_architecture_gives_logits_of_the_image_s_size(arch: str) -> None:
    """Gray images whose sides are no multiple of 32 pass through each, and gradients come back."""
    logits = build(arch)(torch.rand(2, 1, 40, 72))
    assert logits.shape == (2, 5, 40, 72)
    logits.sum().backward()


@pytest.mark.parametrize("encoder", ["timm-mobilenetv3_large_100", "timm-efficientnet-b0", "tu-resnet10t", "xception", "mit_b0"])
def test_encoders_of_every_origin_build(encoder: str) -> None:
    """Those of smp, its deprecated timm- names (without their warning), and timm's; three channels."""
    assert build("Unet", encoder, in_channels=3)(torch.rand(2, 3, 32, 32)).shape == (2, 5, 32, 32)


@pytest.mark.parametrize("size", [(1, 1), (7, 50), (64, 128)])
def test_images_of_any_size_pass(size: tuple[int, int]) -> None:
    """Also smaller than the padding that they need."""
    model = build().eval()
    assert model(torch.rand(1, 1, *size)).shape == (1, 5, *size)


def test_size_that_needs_no_padding_is_left_alone() -> None:
    """The wrapper changes nothing at multiples of 32."""
    model = build().eval()
    assert isinstance(model, AnySize)
    images = torch.rand(1, 1, 32, 64)
    assert torch.equal(model(images), model.network(images))


def test_equal_seeds_give_equal_weights() -> None:
    """Initial weights come from torch's random state."""
    torch.manual_seed(3)
    first = build().state_dict()
    torch.manual_seed(3)
    assert all(torch.equal(first[name], tensor) for name, tensor in build().state_dict().items())


def test_architecture_options_reach_the_library() -> None:
    """``arch_options`` are the architecture's own arguments."""
    small = build(arch_options={"encoder_depth": 3, "decoder_channels": [16, 8, 8]})
    assert sum(p.numel() for p in small.parameters()) < 0.8 * sum(p.numel() for p in build().parameters())


def test_options_of_architectures_are_the_library_s() -> None:
    """What ``arch_options`` may set is exactly what each architecture takes, but for what other fields set."""
    set_elsewhere = {"encoder_name", "encoder_weights", "in_channels", "classes", "aux_params", "activation", "kwargs"}
    for arch, options in ARCHITECTURES.items():
        assert set(options) == set(inspect.signature(getattr(smp, arch)).parameters) - set_elsewhere, arch


@pytest.mark.parametrize(
    ("encoder", "options", "message"),
    [
        ("resnet18", {"encoder_dept": 3}, "not a known option of FPN.*Did you mean 'encoder_depth'"),
        ("resnet18", {"decoder_channels": [16] * 5}, "'decoder_channels' is not a known option of FPN"),
        ("timm-mobilenetv3_small_100", {"decoder_channels": [16] * 5}, "'decoder_channels' is not a known option of FPN"),
    ],
)
def test_options_of_no_or_another_architecture_are_rejected(encoder: str, options: dict[str, Any], message: str) -> None:
    """Before anything is built: the library silently drops them, or hands them to an encoder that fails in the worker."""
    with pytest.raises(ValidationError, match=message):
        TrainConfig.model_validate({"arch": "FPN", "encoder": encoder, "arch_options": options})


def test_options_of_timm_s_encoders_pass() -> None:
    """Whether timm knows them shows when the network is built."""
    config = {"arch": "FPN", "encoder": "tu-resnet10t", "arch_options": {"drop_path_rate": 0.1}}
    assert TrainConfig.model_validate(config).arch_options == {"drop_path_rate": 0.1}


def test_impossible_option_says_what_the_library_says() -> None:
    """The message names the combination and the library's reason."""
    with pytest.raises(ConfigError, match=r"'Unet'.*'resnet18'.*decoder_channels.*cannot be built"):
        build(arch_options={"decoder_channels": [16]})


def test_encoder_that_does_not_fit_the_architecture_is_rejected() -> None:
    """DPT takes timm's transformers only; the message says so."""
    with pytest.raises(ConfigError, match=r"'DPT' with encoder 'resnet18'.*Only Timm encoders are supported"):
        build("DPT", "resnet18")


@pytest.mark.parametrize("in_channels", [1, 3])
def test_transformers_take_gray_and_colour(in_channels: int) -> None:
    """Segformer with its own encoder."""
    assert build("Segformer", "mit_b0", in_channels=in_channels)(torch.rand(2, in_channels, 32, 32)).shape == (2, 5, 32, 32)


def test_unknown_timm_encoder_is_rejected() -> None:
    """What follows ``tu-`` is checked when it is built."""
    with pytest.raises(ConfigError, match="resnet18000"):
        build(encoder="tu-resnet18000")


def test_unknown_weights_are_answered_with_the_known() -> None:
    """Without asking the network."""
    with pytest.raises(ConfigError, match="Known: imagenet"):
        build(encoder_weights="imagenett")


def test_weights_that_cannot_be_fetched_are_rejected_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without network the message says what to do, and does not wait for the client's retries."""
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://localhost:1")
    started_s = time.monotonic()
    with pytest.raises(ConfigError, match="cannot be reached"):
        build(encoder="vgg11", encoder_weights="imagenet")
    assert time.monotonic() - started_s < 10


def test_architecture_that_is_custom() -> None:
    """A callable by import path gets in_channels, classes and the options."""
    model = build("segmentation_models_pytorch:FPN", arch_options={"encoder_name": "resnet18", "encoder_weights": None})
    assert model(torch.rand(2, 1, 32, 32)).shape == (2, 5, 32, 32)


def test_architecture_that_is_custom_must_be_a_module() -> None:
    """Anything else is named by its type."""
    with pytest.raises(ConfigError, match="gave a dict"):
        build("builtins:dict")


_TRAIN_MOBILEONE = """
import torch
from pydantic import ValidationError
from trainers.config import TrainConfig
from trainers.models.build import build_model, place_model
from trainers.prediction.predict import to_input
torch.set_num_threads(1)
for channels in (1, 3):
    config = TrainConfig(encoder="mobileone_s0", arch_options={"decoder_channels": [16, 8, 8, 8, 8]})
    model = place_model(build_model(config, in_channels=channels, num_classes=3), torch.device("cpu"))
    for _ in range(3):
        model(to_input(torch.zeros(8, 64, 128, channels, dtype=torch.uint8), torch.device("cpu"))).square().mean().backward()
print("alive")
"""


def test_mobileone_survives_its_backward_pass() -> None:
    """Its first 1x1 convolution with stride 2 over one or three channels kills the process in channels-last order."""
    done = subprocess.run([sys.executable, "-c", _TRAIN_MOBILEONE], capture_output=True, text=True, check=False)
    assert done.stdout == "alive\n", (done.returncode, done.stderr[-2000:])
