"""Architecture and encoder by name -> a network that takes images of any size."""

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
from trainers.models.depthwise import use_fast_depthwise
from trainers.models.upsample import use_fast_upsampling

STRIDE = 32
"""Factor from the deepest features of an encoder to its input; the input's sides are padded to a multiple of it."""
STRIDES = {"PAN": 128}
"""Strides of architectures that halve the encoder's features again."""


def build_model(config: TrainConfig, *, in_channels: int, num_classes: int) -> nn.Module:
    """Build the network with initial weights from torch's random state, or pretrained if ``encoder_weights`` is set.

    It maps (N, in_channels, H, W) float of any H and W to logits (N, num_classes, H, W). A custom architecture is called with
    ``in_channels``, ``classes`` and ``arch_options``.

    Raises:
        ConfigError: the combination cannot be built; the message quotes the library and says what is allowed.
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
    use_fast_upsampling(network)
    use_fast_depthwise(network)
    model = AnySize(network, stride=STRIDES.get(config.arch, STRIDE))
    return model if config.input_size is None else AtSize(model, config.input_size)


def place_model(model: nn.Module, device: torch.device) -> nn.Module:
    """Move the network to the device and its weights to channels-last order, which is faster; returns it.

    1x1 convolutions with a stride over few channels, such as mobileone's first, keep the plain order. In channels-last order
    torch 2.15's backward pass on the CPU writes beyond its memory there (with 1 to 5 channels and stride 2, not from 8 on), and
    the process dies.
    """
    model.to(device).to(memory_format=torch.channels_last)
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d) and layer.kernel_size == (1, 1) and layer.stride != (1, 1) and layer.in_channels % 8:
            layer.to(memory_format=torch.contiguous_format)
            layer.register_forward_pre_hook(lambda _layer, inputs: tuple(value.contiguous() for value in inputs))
    return model


class AnySize(nn.Module):
    """Pads images at the bottom and the right to multiples of ``stride``, and crops the logits of ``network``."""

    def __init__(self, network: nn.Module, *, stride: int) -> None:
        super().__init__()
        self.network = network
        self.stride = stride

    def forward(self, images: Tensor) -> Tensor:
        height, width = images.shape[-2:]
        bottom, right = -height % self.stride, -width % self.stride
        if bottom or right:
            # A reflection continues the texture, but cannot be longer than the image.
            mode = "reflect" if bottom < height and right < width else "replicate"
            images = F.pad(images, (0, right, 0, bottom), mode=mode)
        logits: Tensor = self.network(images)
        return logits[..., :height, :width]


class AtSize(nn.Module):
    """In evaluation, resizes images to ``size`` (height, width) and the logits of ``network`` back.

    In training, images and masks have that size already.
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
        # What smp and timm raise for wrong depths, sizes, channels and names.
        raise ConfigError(
            f"arch {config.arch!r} with encoder {config.encoder!r}, {options['in_channels']} input channels and arch_options "
            f"{config.arch_options} cannot be built: {type(error).__name__}: {error}"
        ) from error
    if not isinstance(network, nn.Module):
        raise ConfigError(f"arch {config.arch!r} gave a {type(network).__name__}; it must give a torch.nn.Module")
    return network


def _check_weights(encoder: str, weights: str) -> None:
    """Reject unknown weights, or a missing network, at once: the hub's client would retry for half a minute."""
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
    except OSError as error:
        return isinstance(error, urllib.error.HTTPError)  # any answer counts
    return True
