"""Predictions regrouped into blocks of 64 pixels of one image and one true class, and back; cached on disk."""

import hashlib
import math
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from orchestrator.ensemble.selection.kernel import LANES, MAX_RUN, UNSCORED, regroup, ungroup
from orchestrator.state.trial.folder import TrialFile
from orchestrator.state.trial.outputs import keep_in_cache, read_info, unpack

Blocks = NDArray[np.uint8]
"""(B, C, 64) of one candidate, C-contiguous."""

LAYOUT_VERSION = 1
"""Raised by hand when the layout of the same labels changes."""

_MAX_IN_MEMORY = 2**28
"""Bytes of all candidates; more than that lie in a temporary file, whose pages the system may evict."""


@dataclass(frozen=True)
class BlockLayout:
    """The block and lane of each scored pixel."""

    num_images: int
    num_pixels: int
    num_classes: int
    pixels: NDArray[np.int32]
    """(B, 64): positions in the image; -1 for padding at the end of a run."""
    image_of_run: NDArray[np.int32]
    class_of_run: NDArray[np.int32]
    run_start: NDArray[np.int64]
    """(R + 1,) in blocks."""

    @cached_property
    def padding(self) -> NDArray[np.uint16]:
        """(R,) number of padding lanes in each run; class 0 wins them."""
        if not len(self.image_of_run):
            return np.zeros(0, np.uint16)
        return np.add.reduceat((self.pixels < 0).sum(axis=1), self.run_start[:-1]).astype(np.uint16)

    @cached_property
    def digest(self) -> str:
        """Equal for equal layouts: 16 hexadecimal digits."""
        digest = hashlib.sha256(f"{LAYOUT_VERSION} {self.num_images} {self.num_pixels} {self.num_classes}".encode())
        for array in (self.pixels, self.image_of_run, self.class_of_run, self.run_start):
            digest.update(array.tobytes())
        return digest.hexdigest()[:16]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of a candidate's blocks."""
        return len(self.pixels), self.num_classes, LANES

    def fill(self, predictions: NDArray[np.uint8], blocks: Blocks) -> None:
        """Regroup predictions (V, C, H, W) or (V, C, P)."""
        flat = np.ascontiguousarray(predictions).reshape(self.num_images, self.num_classes, self.num_pixels)
        regroup(flat, self.pixels, self.image_of_run, self.run_start, blocks)

    def restore(self, blocks: Blocks) -> NDArray[np.uint8]:
        """Predictions (V, C, P) of a candidate's blocks, 0 where nothing is scored."""
        found = np.zeros((self.num_images, self.num_classes, self.num_pixels), np.uint8)
        ungroup(blocks, self.pixels, self.image_of_run, self.run_start, found)
        return found


def make_layout(labels: NDArray[np.uint8], num_classes: int) -> BlockLayout:
    """Lay out the pixels of labels (V, P) that are not UNSCORED, by image and then by class."""
    num_images, num_pixels = labels.shape
    scored = np.flatnonzero(labels != UNSCORED)
    group = scored // num_pixels * 256 + labels.reshape(-1)[scored]
    scored = scored[np.argsort(group, kind="stable")]
    numbers, sizes = np.unique(group, return_counts=True)
    most = MAX_RUN * LANES
    pieces = -(-sizes // most)  # of a group that is too large for one run
    piece = np.arange(pieces.sum()) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    lengths = np.minimum(np.repeat(sizes, pieces) - piece * most, most)
    run_start = np.concatenate([[0], np.cumsum(-(-lengths // LANES))])
    pixels = np.full(int(run_start[-1]) * LANES, -1, np.int32)
    offset = np.arange(len(scored)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    pixels[np.repeat(run_start[:-1] * LANES, lengths) + offset] = scored % num_pixels
    of_run = np.repeat(numbers, pieces)
    return BlockLayout(
        num_images=num_images,
        num_pixels=num_pixels,
        num_classes=num_classes,
        pixels=pixels.reshape(-1, LANES),
        image_of_run=(of_run // 256).astype(np.int32),
        class_of_run=(of_run % 256).astype(np.int32),
        run_start=run_start.astype(np.int64),
    )


def make_blocks(layout: BlockLayout, predictions: Iterable[NDArray[np.uint8]], *, num_candidates: int) -> list[Blocks]:
    """Regroup every candidate, one after another; if they are large, in a temporary file that is mapped into memory."""
    shape = (num_candidates, *layout.shape)
    if np.prod(shape) <= _MAX_IN_MEMORY:
        every = np.empty(shape, np.uint8)
    else:
        with tempfile.TemporaryFile(prefix="orchestrate-") as file:  # the mapping keeps the deleted file alive
            every = np.memmap(file, np.uint8, "w+", shape=shape)
    for array, blocks in zip(predictions, every, strict=True):
        layout.fill(array, blocks)
    return list(every)


@dataclass(frozen=True)
class Grouped:
    """Candidates as blocks. By number: their predictions (V, C, P), 0 where nothing is scored, each restored on access."""

    layout: BlockLayout
    blocks: Sequence[Blocks]

    def __getitem__(self, i: int) -> NDArray[np.uint8]:
        return self.layout.restore(self.blocks[i])


def read_blocks(folder: Path, cache: Path, layout: BlockLayout) -> NDArray[np.uint8]:
    """Map stored probabilities into memory, read-only, regrouped by ``layout``; otherwise as ``outputs.read_predictions``."""
    info = read_info(folder)
    path = cache / f"{info.predictions_sha256}.{layout.digest}.blocks"
    if not path.exists() or path.stat().st_size != math.prod(layout.shape):
        raw = unpack(folder / TrialFile.PREDICTIONS, sha256=info.predictions_sha256, num_bytes=math.prod(info.shape))
        blocks = np.empty(layout.shape, np.uint8)
        layout.fill(np.frombuffer(raw, np.uint8).reshape(info.shape), blocks)
        keep_in_cache(path, blocks.data)
    return np.memmap(path, dtype=np.uint8, mode="r", shape=layout.shape)
