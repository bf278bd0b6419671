"""Architecture and encoder by name -> a network that takes images of any size."""

from __future__ import annotations

import urllib.error
import urllib.request
import warnings
from collections.abc import Callable
from typing import Any

import segmentation_models_pytorch as smp
import timm
import torch
import torch.nn.functional as F
from huggingface_hub import constants, try_to_load_from_cache
from torch import Tensor, nn

from trainers.config import TrainConfig, is_import_path
from trainers.errors import ConfigError
from trainers.imports import import_object
from trainers.models.depthwise import quicken_depthwise
from trainers.models.upsample import cheapen_upsampling

STRIDE = 32
"""What the deepest features of every encoder are smaller by; sides of the input are padded to a multiple of it."""
STRIDES = {"PAN": 128}
"""Of the architectures that halve those features again."""
SET_HERE = {"self", "encoder_name", "encoder_weights", "in_channels", "classes", "aux_params", "activation", "kwargs"}
"""Arguments of smp's architectures that ``arch_options`` cannot set: other fields do, or the training needs them as they are."""


def build_model(config: TrainConfig, *, in_channels: int, num_classes: int) -> nn.Module:
    """Build the network with initial weights from torch's random state, pretrained only if ``encoder_weights`` is set.

    It maps (N, in_channels, H, W) float of any H and W to logits (N, num_classes, H, W). An architecture of the user's own is
    called with ``in_channels``, ``classes`` and ``arch_options``.

    Raises:
        ConfigError: the combination cannot be built; the message says what the library says, and what is allowed.
    """
    if is_import_path(config.arch):
        build: Callable[..., Any] = import_object(config.arch)
        options = dict(config.arch_options)
    else:
        build = getattr(smp, config.arch)
        if config.encoder_weights is not None:
            _check_weights(config.encoder, config.encoder_weights)
        options = {**config.arch_options, "encoder_name": config.encoder, "encoder_weights": config.encoder_weights}
    network = _build(config, build, {**options, "in_channels": in_channels, "classes": num_classes})
    cheapen_upsampling(network)
    quicken_depthwise(network)
    model = AnySize(network, stride=STRIDES.get(config.arch, STRIDE))
    return model if config.input_size is None else AtSize(model, config.input_size)


def place_model(model: nn.Module, device: torch.device) -> nn.Module:
    """Move the network to the device and its weights into channels-last order, which is quicker; returns it.

    But for 1x1 convolutions with a stride over few channels, such as mobileone's first: in that order torch 2.15's backward
    pass on the CPU writes beyond its memory there (seen with 1 to 5 channels and stride 2, not from 8 on), and the process dies.
    """
    model.to(device).to(memory_format=torch.channels_last)
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d) and layer.kernel_size == (1, 1) and layer.stride != (1, 1) and layer.in_channels % 8:
            layer.to(memory_format=torch.contiguous_format)
            layer.register_forward_pre_hook(_in_plain_order)
    return model


def _in_plain_order(layer: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(value.contiguous() for value in inputs)


class AnySize(nn.Module):
    """Pads images at the bottom and the right to multiples of ``stride``, and cuts the logits of ``network`` back."""

    def __init__(self, network: nn.Module, *, stride: int) -> None:
        super().__init__()
        self.network = network
        self.stride = stride

    def forward(self, images: Tensor) -> Tensor:
        height, width = images.shape[-2:]
        bottom, right = -height % self.stride, -width % self.stride
        if bottom or right:
            # A reflection continues the texture, but can only be as long as what it mirrors.
            mode = "reflect" if bottom < height and right < width else "replicate"
            images = F.pad(images, (0, right, 0, bottom), mode=mode)
        logits: Tensor = self.network(images)
        return logits[..., :height, :width]


class AtSize(nn.Module):
    """Shows ``network`` images of ``size`` (height, width) and brings its logits back to theirs, when it evaluates.

    In training the pairs are of that size already, labels too.
    """

    def __init__(self, network: nn.Module, size: tuple[int, int]) -> None:
        super().__init__()
        self.network = network
        self.size = size

    def forward(self, images: Tensor) -> Tensor:
        if self.training:
            in_training: Tensor = self.network(images)
            return in_training
        full = images.shape[-2:]
        is_smaller = self.size[0] * self.size[1] < full.numel()
        resized = F.interpolate(images, self.size, mode="area" if is_smaller else "bilinear")
        return F.interpolate(self.network(resized), full, mode="bilinear")


def _build(config: TrainConfig, build: Callable[..., Any], options: dict[str, Any]) -> nn.Module:
    try:
        with warnings.catch_warnings():
            # The report names these encoders; smp still builds them.
            warnings.filterwarnings("ignore", message="`timm-` encoders are deprecated", category=DeprecationWarning)
            network = build(**options)
    except OSError as error:
        raise ConfigError(f"encoder_weights {config.encoder_weights!r}: download failed: {error}") from error
    except (TypeError, ValueError, KeyError, IndexError, AttributeError, RuntimeError, AssertionError) as error:
        # Whatever smp and timm raise for what they cannot build: wrong depths, sizes, channels, names.
        raise ConfigError(
            f"arch {config.arch!r} with encoder {config.encoder!r}, {options['in_channels']} input channels and arch_options "
            f"{config.arch_options} cannot be built: {type(error).__name__}: {error}"
        ) from error
    if not isinstance(network, nn.Module):
        raise ConfigError(f"arch {config.arch!r} gave a {type(network).__name__}; it must give a torch.nn.Module")
    return network


def _check_weights(encoder: str, weights: str) -> None:
    """Answer unknown weights, and a missing network, at once: the hub's client would try for half a minute."""
    repository, revision = _weights_repository(encoder, weights)
    if isinstance(try_to_load_from_cache(repository, "model.safetensors", revision=revision), str):
        return
    if constants.HF_HUB_OFFLINE or not _answers(constants.ENDPOINT):
        raise ConfigError(
            f"encoder_weights {weights!r} of {encoder!r} are not on this machine, and {constants.ENDPOINT} cannot be reached. "
            f"Set encoder_weights to null to start from random weights, or download {repository} once where there is network."
        )


def _weights_repository(encoder: str, weights: str) -> tuple[str, str | None]:
    settings = smp.encoders.encoders.get(encoder, {}).get("pretrained_settings")
    if settings is not None:
        if weights not in settings:
            raise ConfigError(f"encoder_weights {weights!r} do not exist for {encoder!r}. Known: {', '.join(settings) or 'none'}")
        return settings[weights]["repo_id"], settings[weights]["revision"]
    name = encoder.removeprefix("tu-").removeprefix("timm-")
    known = timm.get_pretrained_cfg(name)
    if known is None or known.hf_hub_id is None:
        raise ConfigError(f"encoder_weights: timm has no pretrained weights for {encoder!r}. Set encoder_weights to null.")
    return known.hf_hub_id, None


def _answers(url: str) -> bool:
    try:
        urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=5).close()
    except urllib.error.HTTPError:
        return True  # an answer, whatever it says
    except OSError:
        return False
    return True
