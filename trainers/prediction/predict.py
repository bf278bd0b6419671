"""Network and images -> class probabilities, and their 8-bit form."""

import timeit

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from trainers.config import FLIPPED_AXES, Flips
from trainers.device import Device

_NUM_TIMED = 7


def to_input(images: Tensor, device: torch.device) -> Tensor:
    """(N, H, W, C) uint8 -> (N, C, H, W) float32 in [0, 1] on ``device``, channels last in memory."""
    moved = images.to(device, non_blocking=True)
    # Permuting a single channel would give strides that contiguous() does not correct.
    inputs = moved.view(len(images), 1, *images.shape[1:3]) if images.shape[3] == 1 else moved.permute(0, 3, 1, 2)
    return inputs.float().div_(255).contiguous(memory_format=torch.channels_last)


def predict_batch(model: nn.Module, images: NDArray[np.uint8], device: Device, *, flips: Flips = "none") -> Tensor:
    """Probabilities (B, C, H, W) float32, on the device, of (B, H, W, C) uint8 images.

    The model must be on the device and in evaluation mode. flips: average over the image and its left-right flip (horizontal),
    or over all four flips (both).
    """
    batch = torch.from_numpy(np.array(images))  # a memory map cannot be shared with a tensor
    with torch.inference_mode():
        inputs = to_input(batch, device.torch)
        views = []
        for axes in FLIPPED_AXES[flips]:
            with device.autocast():
                logits = model(inputs.flip(axes) if axes else inputs)
            probabilities = logits.float().softmax(dim=1)
            views.append((probabilities.flip(axes) if axes else probabilities).contiguous())
        return torch.stack(views).mean(dim=0) if len(views) > 1 else views[0]


def quantize(probabilities: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Round (N, C, H, W) probabilities in [0, 1] to 0..255, keeping the argmax (the first of equals) of every pixel.

    Where rounding makes the winner equal to an earlier class, the winner is raised by one; as both are at most half, it fits.
    Of probabilities that do not add up to 1, as of sigmoids, both may be the largest: then the earlier ones are lowered.
    """
    values: NDArray[np.uint8] = np.rint(probabilities * np.float32(255)).astype(np.uint8)
    winner = probabilities.argmax(axis=1)[:, np.newaxis]
    lost = values.argmax(axis=1)[:, np.newaxis] != winner
    if (is_full := lost & (np.take_along_axis(values, winner, axis=1) == 255)).any():
        earlier = np.arange(values.shape[1])[:, np.newaxis, np.newaxis] < winner
        values -= (is_full & earlier & (values == 255)).astype(np.uint8)
        lost &= ~is_full
    np.put_along_axis(values, winner, np.take_along_axis(values, winner, axis=1) + lost.astype(np.uint8), axis=1)
    return values


def measure_latency_ms(model: nn.Module, image: NDArray[np.uint8], device: Device) -> float:
    """Median milliseconds for one image (1, H, W, C), from bytes to probabilities on the host.

    The model must be on the device; it is set to evaluation mode. Other load on the machine counts.
    """
    model.eval()
    times_s = timeit.repeat(lambda: predict_batch(model, image, device).cpu(), number=1, repeat=_NUM_TIMED)
    return float(np.median(times_s)) * 1000
