"""RUN_OR_ENSEMBLE -> checkpoints on this machine, with the weights and image sizes that predictions need."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import TypeAdapter, ValidationError

from orchestrator.errors import PredictError
from orchestrator.state.trial.folder import TrialFile, TrialFolder, read_removal, say_removed
from orchestrator.state.trial.records import TrialSpec
from orchestrator.tracking.location import TrackingLocation
from orchestrator.tracking.tags import Tag
from trainers.config import Flips
from trainers.prediction.means import Mean

if TYPE_CHECKING:
    from orchestrator.state.home import Home
    from orchestrator.tracking.reader.lookup import FoundModel
    from orchestrator.tracking.reader.row import RunRow
    from orchestrator.tracking.reader.runs import RunReader


@dataclass(frozen=True)
class MemberFiles:
    """A trained model.

    name: its trial's key, or its path. size: (height, width) to which every image is resized; None: images are not resized.
    flips: mirror images to average over; None: as it was validated.
    """

    name: str
    checkpoint: Path
    weight: float = 1.0
    size: tuple[int, int] | None = None
    flips: Flips | None = None


@dataclass(frozen=True)
class ModelFiles:
    """A model or an ensemble. run_id: None for a checkpoint given by its path. mean: how members are combined."""

    name: str
    members: tuple[MemberFiles, ...]
    run_id: str | None = None
    mean: Mean = "arithmetic"


def find_files(name: str, home: Home) -> ModelFiles:
    """Find a model by name, and fetch the files that are not on this machine.

    name: the path of a checkpoint or of its folder; the run id of a trial or an ensemble; a trial's key or its beginning; or a
    sweep, for the ensemble that ``best-ensemble`` chose last.

    Raises:
        PredictError: it is a file or folder without a checkpoint.
        TrackingError: there is no such run, or its files are lost.
    """
    path = Path(name).expanduser()
    checkpoint = path / TrialFile.WEIGHTS if path.is_dir() else path
    if checkpoint.is_file():
        return ModelFiles(name=str(path), members=(MemberFiles(str(path), checkpoint, size=_size_beside(checkpoint)),))
    if len(path.parts) > 1 or path.suffix == ".safetensors":
        beside = path if path.is_dir() else path.parent
        if checkpoint.name == TrialFile.WEIGHTS and (beside / TrialFile.SPEC).exists():
            raise PredictError(_explain_missing(TrialFolder(beside)))
        found = ", ".join(sorted(entry.name for entry in beside.iterdir())[:8]) if beside.is_dir() else ""
        raise PredictError(
            f"{checkpoint}: not found; {beside} holds {found or 'nothing'}. A trial's folder holds {TrialFile.WEIGHTS}."
        )
    from orchestrator.tracking.reader.lookup import find_model

    return _fetch(find_model(TrackingLocation.of(home), name), home)


def _fetch(model: FoundModel, home: Home) -> ModelFiles:
    from orchestrator.tracking.reader.runs import RunReader

    reader = RunReader(TrackingLocation.of(home))
    rows = reader.find_finished(model.weights)
    missing = [key for key in model.weights if key not in rows]
    if missing:
        raise PredictError(
            f"{model.name}: its members {', '.join(missing)} are COMPLETE nowhere. Run the sweep again to train them anew."
        )
    cache = home.cache / "files"
    members = tuple(
        MemberFiles(
            name=key,
            checkpoint=_fetch_checkpoint(reader, rows[key], home),
            weight=weight,
            size=_read_size(reader.fetch(rows[key], TrialFile.SPEC, cache)),
            flips=_check_flips(model, key),
        )
        for key, weight in model.weights.items()
    )
    return ModelFiles(model.name, members, run_id=model.run_id, mean=_check_mean(model))


def _check_mean(model: FoundModel) -> Mean:
    try:
        return TypeAdapter[Mean](Mean).validate_python(model.mean)
    except ValidationError:
        raise PredictError(f"{model.name}: combines its members by {model.mean!r}, which this version does not know.") from None


def _check_flips(model: FoundModel, key: str) -> Flips | None:
    flips = model.flips.get(key)
    try:
        return TypeAdapter[Flips | None](Flips | None).validate_python(flips)
    except ValidationError:
        raise PredictError(f"{model.name}: averages {key} over flips {flips!r}, which this version does not know.") from None


def _fetch_checkpoint(reader: RunReader, row: RunRow, home: Home) -> Path:
    path = reader.find_file(row, TrialFile.WEIGHTS, home.cache / "files")
    if path is not None:
        return path
    removed = row.tags.get(Tag.CHECKPOINT_REMOVED) or read_removal(TrialFolder(home.trial_folder(row.key)))
    if removed is not None:
        raise PredictError(say_removed(row.name, row.key, removed))
    return reader.fetch(row, TrialFile.WEIGHTS, home.cache / "files")  # raises, and explains where it may be


def _explain_missing(folder: TrialFolder) -> str:
    """Why a trial's folder has no checkpoint, and what to do."""
    if (removed := read_removal(folder)) is not None:
        return say_removed(str(folder.path), folder.spec().key, removed)
    path, key = folder.path / TrialFile.WEIGHTS, folder.spec().key
    return f"{path}: not found. If the trial has finished, MLflow has it: give its key, {key}, instead of the path."


def _size_beside(checkpoint: Path) -> tuple[int, int] | None:
    """From the trial's configuration; a checkpoint outside a trial's folder takes images as they are."""
    beside = checkpoint.parent / TrialFile.SPEC
    return _read_size(beside) if beside.exists() else None


def _read_size(path: Path) -> tuple[int, int] | None:
    try:
        data = TrialSpec.model_validate_json(path.read_bytes()).data
    except ValidationError as error:
        raise PredictError(f"{path}: cannot be read by this version: {error}") from error
    return data.size if data.fit == "resize" else None  # padding keeps the scale, and networks take any size
