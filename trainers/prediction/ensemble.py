"""Checkpoints with weights, loaded once -> one mask per image: the argmax of the mean of their quantized probabilities."""

import math
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Literal

import numpy as np
import torch.nn.functional as F
from numpy.typing import NDArray
from pydantic import ValidationError
from torch import Tensor

from trainers.config import Config, Flips, TrainConfig
from trainers.data.images import resize_image
from trainers.device import choose_device
from trainers.errors import ConfigError
from trainers.prediction.means import Mean, to_addends
from trainers.prediction.predict import predict_batch, quantize
from trainers.prediction.weights import load_checkpoint, read_info

MEMBERS_FILE = "members.json"
MAX_PIXELS = 2**23
"""Most pixels predicted at once (32 images of 512x512), whatever the members' batch sizes."""
MAX_TOTAL = 2**24
"""Largest sum of the weights: 255 times as much is an exact uint32, 65,535 times as much an exact int64."""
MAX_DENOMINATOR = 1000
"""Largest denominator of a weight as a fraction; weights are logged with six digits."""


@dataclass(frozen=True)
class Member:
    """A checkpoint and its weight, a whole number.

    size: (height, width) of the images in its training; None: as they are. flips: to average over; None: as in its validation.
    """

    checkpoint: Path
    weight: int = 1
    size: tuple[int, int] | None = None
    flips: Flips | None = None


class Ensemble:
    """Members on one device, ready to predict; a single model is an ensemble of one. Used by one thread.

    The arithmetic is that of the selection: probabilities quantized to 0..255 and summed as whole numbers; the lowest class wins
    ties. So the validation images get the masks that the ensemble was selected for. With another batch size or number of
    threads than in training, a network's last bits differ: in float32 on the CPU, 0 to 76 of 1.6 million quantized values were
    off by one.
    """

    def __init__(
        self,
        members: Sequence[Member],
        *,
        mean: Mean = "arithmetic",
        device: str | None = None,
        flips: Flips | None = None,
        batch_size: int | None = None,
    ) -> None:
        """Load the members. flips, batch_size: for all members; None: each member's own, or as in its validation.

        Raises:
            ConfigError: a checkpoint cannot be loaded, or the members do not match.
        """
        infos = [read_info(member.checkpoint) for member in members]
        self.in_channels: int = _check_same(members, [info.in_channels for info in infos], "input channels")
        self.num_classes: int = _check_same(members, [info.num_classes for info in infos], "classes")
        if not 0 < sum(member.weight for member in members) <= MAX_TOTAL or min(member.weight for member in members) < 0:
            raise ConfigError(f"weights {[member.weight for member in members]}: expected 0 or more, 1 to {MAX_TOTAL} in all")
        self._mean = mean
        self._members = [
            _LoadedMember(member, info.config, device=device, flips=flips, batch_size=batch_size)
            for member, info in zip(members, infos, strict=True)
        ]

    def batch_size(self, size: tuple[int, int]) -> int:
        """Number of images of this size (height, width) predicted at once: whole batches of each member, up to MAX_PIXELS."""
        return max(1, min(math.lcm(*(member.batch_size for member in self._members)), MAX_PIXELS // math.prod(size)))

    def predict(self, images: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Predict classes (N, H, W) uint8 of images (N, H, W, in_channels) uint8 of any N, H and W."""
        masks = np.empty(images.shape[:3], np.uint8)
        step = self.batch_size((images.shape[1], images.shape[2]))
        for start in range(0, len(images), step):
            masks[start : start + step] = self._sum(images[start : start + step]).argmax(axis=1)
        return masks

    def _sum(self, images: NDArray[np.uint8]) -> NDArray[np.integer]:
        """Weighted sums (B, C, H, W) of the members' addends."""
        number = np.uint32 if self._mean == "arithmetic" else np.int64
        sums = np.zeros((len(images), self.num_classes, *images.shape[1:3]), number)
        for member in self._members:
            for start in range(0, len(images), member.batch_size):
                part = slice(start, start + member.batch_size)
                sums[part] += number(member.weight) * to_addends(quantize(member.predict(images[part]).cpu().numpy()), self._mean)
        return sums


class _LoadedMember:
    """A member's network on its device; flips and batch_size override the member's own."""

    def __init__(
        self, member: Member, config: TrainConfig, *, device: str | None, flips: Flips | None, batch_size: int | None
    ) -> None:
        self.device = choose_device(device, config.precision)
        self.network = load_checkpoint(member.checkpoint, self.device.torch)
        self.weight, self.size = member.weight, member.size
        self.flips: Flips = flips or member.flips or config.test_time_flips
        self.batch_size = config.batch_size if batch_size is None else batch_size

    def predict(self, images: NDArray[np.uint8]) -> Tensor:
        """Probabilities (B, C, H, W) float32 of (B, H, W, C) uint8, computed at the member's training size."""
        full = images.shape[1:3]
        if self.size is None or self.size == full:
            return predict_batch(self.network, images, self.device, flips=self.flips)
        small = np.stack([resize_image(image, self.size) for image in images])
        probabilities = predict_batch(self.network, small, self.device, flips=self.flips)
        return F.interpolate(probabilities, full, mode="bilinear")


def to_whole_weights(weights: Sequence[float]) -> tuple[int, ...]:
    """Return the smallest whole numbers in the proportions of ``weights``: thirds become 1, 1, 1.

    Raises:
        ConfigError: a weight is negative, all are 0, or the numbers would be too large.
    """
    fractions = [Fraction(weight).limit_denominator(MAX_DENOMINATOR) for weight in weights]
    denominator = math.lcm(*(fraction.denominator for fraction in fractions))
    whole = [int(fraction * denominator) for fraction in fractions]
    divisor = math.gcd(*whole)
    if divisor == 0 or min(whole) < 0 or sum(whole) // divisor > MAX_TOTAL:
        raise ConfigError(f"weights {list(weights)}: expected simple fractions of 0 or more, not all 0")
    return tuple(number // divisor for number in whole)


class _MembersFile(Config):
    """members.json; the members' checkpoints are names of files beside it."""

    schema_version: Literal[1] = 1
    members: tuple[Member, ...]
    mean: Mean = "arithmetic"


def save_members(folder: Path, members: Sequence[Member], *, mean: Mean = "arithmetic") -> None:
    """Copy the checkpoints into ``folder`` with members.json, which ``read_members`` reads."""
    entries = []
    for number, member in enumerate(members):
        name = f"member-{number}.safetensors"
        shutil.copyfile(member.checkpoint, folder / name)
        entries.append(replace(member, checkpoint=Path(name)))
    file = _MembersFile(members=tuple(entries), mean=mean)
    (folder / MEMBERS_FILE).write_text(file.model_dump_json(indent=1), encoding="utf-8")


def read_members(folder: Path) -> tuple[tuple[Member, ...], Mean]:
    """Return the members that ``save_members`` wrote, and their mean; the folder may have moved since.

    Raises:
        ConfigError: members.json is missing or damaged.
    """
    try:
        file = _MembersFile.model_validate_json((folder / MEMBERS_FILE).read_bytes())
    except (OSError, ValidationError) as error:
        raise ConfigError(f"{folder / MEMBERS_FILE}: is missing or was not written by this version: {error}") from error
    return tuple(replace(member, checkpoint=folder / member.checkpoint) for member in file.members), file.mean


def _check_same(members: Sequence[Member], numbers: Sequence[int], what: str) -> int:
    if len(set(numbers)) != 1:
        listed = ", ".join(f"{member.checkpoint} has {number}" for member, number in zip(members, numbers, strict=True))
        raise ConfigError(f"members of an ensemble must have equal numbers of {what}; found: {listed or 'no members'}")
    return numbers[0]
