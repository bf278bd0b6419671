"""Pictures -> masks, part by part, by a model or an ensemble that is loaded once; what ``orchestrate predict`` does."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from orchestrator.ensemble.predict.files import ModelFiles, find_files
from orchestrator.ensemble.predict.masks import Described, check_free, open_masks
from orchestrator.errors import PredictError
from orchestrator.planning.preflight import allow_local_imports
from trainers.errors import TrainerError

if TYPE_CHECKING:
    from orchestrator.state.home import Home
    from trainers.data.sources.unlabelled import UnlabelledImages
    from trainers.prediction.ensemble import Ensemble, Member


@dataclass(frozen=True)
class PredictReport:
    """What was predicted. images_per_s: reading and writing included, loading the model not."""

    model: str
    members: tuple[str, ...]
    num_images: int
    out: Path
    images_per_s: float

    def to_json(self) -> dict[str, Any]:
        """The document of ``predict --json``."""
        return {
            "model": self.model,
            "members": list(self.members),
            "num_images": self.num_images,
            "out": str(self.out),
            "images_per_s": round(self.images_per_s, 2),
        }

    def render(self) -> str:
        """What ``predict`` prints for people."""
        by = f" ({len(self.members)} members)" if len(self.members) > 1 else ""
        return escape(f"{self.out}: masks of {self.num_images} pictures by {self.model}{by}, {self.images_per_s:.1f} images/s")


def predict(
    model: str,
    source: Path,
    *,
    out: Path,
    home: Home,
    flips: Literal["none", "horizontal", "both"] | None = None,
    batch_size: int | None = None,
    device: str | None = None,
) -> PredictReport:
    """Predict every picture of ``source`` and write the masks to ``out``.

    model: as ``find_files`` takes it; source: as ``open_unlabelled`` takes it; out: as ``open_masks`` writes it; flips,
    batch_size: None takes what each member was chosen or validated with; device: None takes the first GPU, else the CPU. Memory
    holds the models, one part of the pictures and, of a .npz, its array.

    Raises:
        PredictError: the model, the pictures or the output cannot be used; no output was written.
        TrackingError: the records know no such model, or have lost its files.
    """
    check_free(out)
    from trainers.data.sources.unlabelled import open_unlabelled

    try:
        pictures = open_unlabelled(source.expanduser())
        files = find_files(model, home)
        from trainers.prediction.ensemble import Ensemble  # imports torch, which a mistake above need not wait for

        allow_local_imports()
        ensemble = Ensemble(to_members(files), mean=files.mean, device=device, flips=flips, batch_size=batch_size)
        took_s = _predict_all(ensemble, pictures, out)
    except TrainerError as error:
        raise PredictError(str(error)) from error
    num_images = len(pictures.sizes)
    return PredictReport(files.name, tuple(member.name for member in files.members), num_images, out, num_images / took_s)


def to_members(files: ModelFiles) -> tuple[Member, ...]:
    """The same with whole-numbered weights."""
    from trainers.prediction.ensemble import Member, to_whole_weights

    weights = to_whole_weights([member.weight for member in files.members])
    members = zip(files.members, weights, strict=True)
    return tuple(Member(member.checkpoint, weight, member.size, member.flips) for member, weight in members)


def _predict_all(ensemble: Ensemble, pictures: UnlabelledImages, out: Path) -> float:
    """Seconds that it took."""
    from trainers.data.sources.unlabelled import split_by_size

    described = Described(pictures.names, pictures.ids, pictures.sizes, ensemble.num_classes)
    started_s = time.perf_counter()
    with open_masks(out, described) as write, _progress() as progress:
        task = progress.add_task("predict", total=len(pictures.sizes))
        for positions in split_by_size(pictures.sizes, ensemble.batch_size):
            write(positions, ensemble.predict(pictures.read(positions, ensemble.in_channels)))
            progress.advance(task, len(positions))
    return time.perf_counter() - started_s


def _progress() -> Progress:
    return Progress(
        TextColumn("[bold]{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("pictures"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )
