"""RUN_OR_ENSEMBLE -> checkpoints on this machine, with the weights and image sizes that predictions need."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter, ValidationError

from orchestrator.errors import PredictError
from orchestrator.state.trial.folder import TrialFile, TrialFolder, read_removal, say_removed
from orchestrator.state.trial.records import TrialSpec
from orchestrator.tracking.location import TrackingLocation
from orchestrator.tracking.tags import Tag
from trainers.config import Flips
from trainers.errors import TrainerError
from trainers.prediction.means import Mean

if TYPE_CHECKING:
    from orchestrator.state.home import Home
    from orchestrator.tracking.reader.lookup import FoundModel
    from orchestrator.tracking.reader.row import RunRow
    from orchestrator.tracking.reader.runs import RunReader
    from trainers.prediction.ensemble import Member


@dataclass(frozen=True)
class ModelFiles:
    """A model or an ensemble. run_id: None for a checkpoint given by its path. mean: how members are combined."""

    name: str
    members: Mapping[str, Member]
    """By the key of its trial, or its path."""
    run_id: str | None = None
    mean: Mean = "arithmetic"


def find_files(name: str, home: Home) -> ModelFiles:
    """Find a model by name, and fetch the files that are not on this machine.

    name: the path of a checkpoint or of its folder; the run id of a trial or an ensemble; a trial's key or its beginning; or a
    sweep, for the ensemble that ``best-ensemble`` chose last.

    Raises:
        PredictError: it is a file or folder without a checkpoint, or its members cannot be combined.
        TrackingError: there is no such run, or its files are lost.
    """
    path = Path(name).expanduser()
    checkpoint = path / TrialFile.WEIGHTS if path.is_dir() else path
    if checkpoint.is_file():
        from trainers.prediction.ensemble import Member  # imports torch, for which errors need not wait

        beside = checkpoint.parent / TrialFile.SPEC  # a checkpoint outside a trial's folder takes images as they are
        size = _read_size(beside) if beside.exists() else None
        return ModelFiles(str(path), {str(path): Member(checkpoint, size=size)})
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
            f"{model.name}: its members {', '.join(missing)} have no COMPLETE run. Run the sweep again to retrain them."
        )
    checkpoints = {key: _fetch_checkpoint(reader, rows[key], home) for key in model.weights}
    sizes = {key: _read_size(reader.fetch(rows[key], TrialFile.SPEC, home.cache / "files")) for key in model.weights}
    flips = {key: _check(Flips, found, f"{model.name}: averages {key} over flips") for key, found in model.flips.items()}
    mean = _check(Mean, model.mean, f"{model.name}: combines its members by")
    from trainers.prediction.ensemble import Member, to_whole_weights

    try:
        weights = zip(model.weights, to_whole_weights([*model.weights.values()]), strict=True)
    except TrainerError as error:
        raise PredictError(f"{model.name}: {error}") from error
    members = {key: Member(checkpoints[key], weight, sizes[key], flips.get(key)) for key, weight in weights}
    return ModelFiles(model.name, members, run_id=model.run_id, mean=mean)


def _check(kind: Any, found: str | None, what: str) -> Any:
    try:
        return TypeAdapter(kind).validate_python(found)
    except ValidationError:
        raise PredictError(f"{what} {found!r}, which this version does not know.") from None


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


def _read_size(path: Path) -> tuple[int, int] | None:
    try:
        data = TrialSpec.model_validate_json(path.read_bytes()).data
    except ValidationError as error:
        raise PredictError(f"{path}: cannot be read by this version: {error}") from error
    return data.size if data.fit == "resize" else None  # padding keeps the scale, and networks take any size
