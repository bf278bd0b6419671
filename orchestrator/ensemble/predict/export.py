"""A model or an ensemble -> an MLflow model, logged to its run or saved as a folder: what `orchestrate export` does."""

from __future__ import annotations

import hashlib
import importlib.util
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.markup import escape

from orchestrator.ensemble.predict.files import ModelFiles, find_files
from orchestrator.errors import PredictError, redact
from orchestrator.planning.preflight import allow_local_imports
from orchestrator.tracking.location import TrackingLocation
from trainers.config import is_import_path
from trainers.errors import TrainerError

if TYPE_CHECKING:
    from orchestrator.state.home import Home
    from orchestrator.tracking.models.log import ModelParts

EXAMPLE_SIZE = (64, 64)


@dataclass(frozen=True)
class ExportReport:
    """Where the model is. uri: for MLflow to load and serve it. out: None if it was logged to the run."""

    model: str
    members: tuple[str, ...]
    run_id: str | None
    uri: str
    out: Path | None
    tracking: str

    def to_json(self) -> dict[str, Any]:
        """The document of ``export --json``."""
        out = None if self.out is None else str(self.out)
        return {"model": self.model, "members": list(self.members), "run_id": self.run_id, "uri": self.uri, "out": out}

    def render(self) -> str:
        """What ``export`` prints for people: the URI alone on the first line."""
        where = "" if self.out else f"MLFLOW_TRACKING_URI={self.tracking} "
        return escape(f"{self.uri}\nServe it: {where}mlflow models serve -m {self.uri} --env-manager local")


def export(model: str, *, home: Home, out: Path | None = None) -> ExportReport:
    """Log a model or an ensemble as an MLflow model to its run, or save it as the folder ``out`` instead.

    model: as for ``find_files``.

    Raises:
        PredictError: there is no such model, it has no run to log to, or ``out`` exists.
        TrackingError: the server cannot be used.
    """
    if out is not None and out.exists():
        raise PredictError(f"{out}: exists already. Name another folder, or remove it first.")
    files = find_files(model, home)
    if out is None and files.run_id is None:
        raise PredictError(f"{files.name}: a checkpoint has no run to log a model to. Name a folder with --out, or a run.")
    from orchestrator.tracking.models.log import log_model, save_model  # imports mlflow, which takes seconds

    place = TrackingLocation.of(home)
    with tempfile.TemporaryDirectory() as scratch:
        try:
            parts = _gather(files, folder=Path(scratch) / "members")
        except TrainerError as error:
            raise PredictError(str(error)) from error
        if out is not None:
            save_model(parts, out)
            uri = str(out)
        else:
            assert files.run_id is not None  # checked above
            uri = log_model(place, files.run_id, parts)
    return ExportReport(
        model=files.name,
        members=tuple(files.members),
        run_id=files.run_id,
        uri=uri,
        out=out,
        tracking=redact(place.uri),
    )


def _gather(files: ModelFiles, *, folder: Path) -> ModelParts:
    """Copy the members into ``folder``, after checking that they can predict."""
    from orchestrator.tracking.models.log import ModelParts
    from trainers.prediction.ensemble import Ensemble, save_members
    from trainers.prediction.weights import read_info

    allow_local_imports()
    members = [*files.members.values()]
    ensemble = Ensemble(members, mean=files.mean, device="cpu")
    folder.mkdir()
    save_members(folder, members, mean=files.mean)
    archs = {read_info(member.checkpoint).config.arch for member in members}
    code = _find_code(["trainers", *(arch for arch in archs if is_import_path(arch))])
    return ModelParts(
        members=folder,
        code=code,
        in_channels=ensemble.in_channels,
        size=EXAMPLE_SIZE,
        identity=_hash_files([folder, *code]),
    )


def _hash_files(paths: Sequence[Path]) -> str:
    """Hash of all files of the model: 16 hexadecimal digits."""
    digest = hashlib.sha256()
    for path in paths:
        files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
        for file in files:
            if "__pycache__" not in file.parts:
                name = file.relative_to(path.parent) if path.is_file() else file.relative_to(path)
                digest.update(f"{name} {hashlib.sha256(file.read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()[:16]


def _find_code(paths: Iterable[str]) -> list[Path]:
    """The files and packages that ``paths`` are imported from, sorted."""
    found = set()
    for path in paths:
        top = path.partition(":")[0].partition(".")[0]
        spec = importlib.util.find_spec(top)
        if spec is None or spec.origin is None:
            raise PredictError(f"{path!r}: module {top!r} has no source file that could be exported.")
        origin = Path(spec.origin)
        found.add(origin.parent if origin.name == "__init__.py" else origin)
    return sorted(found)
