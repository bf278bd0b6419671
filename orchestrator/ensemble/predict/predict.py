"""Images -> masks, part by part, by a model or an ensemble: what `orchestrate predict` does."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from orchestrator.ensemble.predict.files import find_files
from orchestrator.ensemble.predict.masks import check_free, open_masks
from orchestrator.errors import PredictError
from orchestrator.planning.preflight import allow_local_imports
from trainers.errors import TrainerError

if TYPE_CHECKING:
    from orchestrator.state.home import Home
    from trainers.config import Flips
    from trainers.data.sources.unlabelled import UnlabelledImages
    from trainers.prediction.ensemble import Ensemble


@dataclass(frozen=True)
class PredictReport:
    """What was predicted. images_per_s includes reading and writing, but not loading the model."""

    model: str
    members: tuple[str, ...]
    num_images: int
    out: Path
    images_per_s: float

    def to_json(self) -> dict[str, Any]:
        """The document of ``predict --json``."""
        return asdict(self) | {"members": list(self.members), "out": str(self.out), "images_per_s": round(self.images_per_s, 2)}

    def render(self) -> str:
        """What ``predict`` prints for people."""
        by = f" ({len(self.members)} members)" if len(self.members) > 1 else ""
        return escape(f"{self.out}: masks of {self.num_images} images by {self.model}{by}, {self.images_per_s:.1f} images/s")


def predict(
    model: str,
    source: Path,
    *,
    out: Path,
    home: Home,
    flips: Flips | None = None,
    batch_size: int | None = None,
    device: str | None = None,
) -> PredictReport:
    """Predict the masks of all images of ``source`` and write them to ``out``.

    model: as for ``find_files``. source: as for ``open_unlabelled``. out: as for ``open_masks``. flips, batch_size: None: as each
    member was chosen or validated. device: None: the first GPU, else the CPU. Memory holds the models, one part of the images
    and, for a .npz, its array.

    Raises:
        PredictError: the model, the images or the output cannot be used; no output was written.
        TrackingError: there is no such model, or its files are lost.
    """
    check_free(out)
    from trainers.data.sources.unlabelled import open_unlabelled

    try:
        images = open_unlabelled(source.expanduser())
        files = find_files(model, home)
        from trainers.prediction.ensemble import Ensemble  # imports torch, for which errors above need not wait

        allow_local_imports()
        ensemble = Ensemble([*files.members.values()], mean=files.mean, device=device, flips=flips, batch_size=batch_size)
        took_s = _predict_all(ensemble, images, out)
    except TrainerError as error:
        raise PredictError(str(error)) from error
    num_images = len(images.sizes)
    return PredictReport(files.name, tuple(files.members), num_images, out, num_images / took_s)


def _predict_all(ensemble: Ensemble, images: UnlabelledImages, out: Path) -> float:
    """Returns the seconds that it took."""
    from trainers.data.sources.unlabelled import split_by_size

    started_s = time.perf_counter()
    with open_masks(out, images, ensemble.num_classes) as write, _progress() as progress:
        task = progress.add_task("predict", total=len(images.sizes))
        for positions in split_by_size(images.sizes, ensemble.batch_size):
            write(positions, ensemble.predict(images.read(positions, ensemble.in_channels)))
            progress.advance(task, len(positions))
    return time.perf_counter() - started_s


def _progress() -> Progress:
    return Progress(
        TextColumn("[bold]{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("images"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )
