"""Checkpoints of trials that have not ended, kept with their runs on the server, for another machine to go on from.

A tag of the run says which files are the checkpoint, with their sizes and hashes. It changes when all of them are there, and they
take turns between two folders: who is killed in the midst of an upload leaves the last whole checkpoint as it was.
"""

from __future__ import annotations

import hashlib
import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import mlflow  # noqa: F401  whole, before its parts (see __init__.py)
from mlflow.entities import Run
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from pydantic import BaseModel, ConfigDict, ValidationError

from orchestrator.errors import TrackingError
from orchestrator.state.trial.checkpoint import RESUME_FILES, Fetched, copied
from orchestrator.state.trial.folder import TrialFolder
from orchestrator.state.trial.records import TrialState
from orchestrator.tracking.client import all_experiments, connect, search_runs
from orchestrator.tracking.errors import translate_errors
from orchestrator.tracking.location import TrackingLocation
from orchestrator.tracking.tags import Tag, match_trials

FOLDER = "checkpoint"
"""Of a run's files: below it lie the two folders that take turns."""

_TRIES = 3
"""Looks for a checkpoint that is replaced by a later one while it is fetched."""


class _File(BaseModel):
    model_config = ConfigDict(frozen=True)
    size: int
    sha256: str


class Mirrored(BaseModel):
    """A checkpoint on the server, as its run's tag describes it. turn: which of the two folders holds it."""

    model_config = ConfigDict(frozen=True)
    epoch: int
    attempt: int
    host: str
    turn: int
    time_s: float
    files: dict[str, _File]

    @property
    def path(self) -> str:
        return f"{FOLDER}/{self.turn}"


@dataclass(frozen=True)
class Found:
    """A checkpoint on the server, and the run that holds it."""

    run: Run
    mirrored: Mirrored

    def describe(self) -> str:
        """For people, and for the page of the run that goes on from it."""
        said = self.mirrored
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(said.time_s))
        return f"goes on from epoch {said.epoch}, which attempt {said.attempt} on {said.host} has mirrored at {when} UTC"


class _DamagedError(Exception):
    """What the server holds under a checkpoint's name is not that checkpoint."""


class CheckpointStore:
    """Reads and writes the checkpoints of one tracking server. Used by one thread; every method may be repeated without harm.

    Raises:
        TrackingError: the server cannot be used; so does every method.
    """

    def __init__(self, location: TrackingLocation) -> None:
        self._location = location
        self._client = connect(location)

    def send(self, folder: TrialFolder, run_id: str) -> None:
        """Let the run hold the folder's checkpoint, unless it holds one as late already, or the trial has ended elsewhere."""
        with translate_errors(self._location), copied(folder) as copy:
            if copy is None:
                return
            path, epoch = copy
            run = self._client.get_run(run_id)
            before = _read(run)
            has_ended = run.data.tags.get(Tag.STATE) not in (TrialState.RUNNING, TrialState.WAITING)
            if has_ended or (before is not None and before.epoch >= epoch):
                return
            now = Mirrored(
                epoch=epoch,
                attempt=folder.last_attempt(),
                host=socket.gethostname(),
                turn=0 if before is None else 1 - before.turn,
                time_s=time.time(),
                files={file.name: _measure(file) for file in sorted(path.iterdir())},
            )
            self._client.log_artifacts(run_id, str(path), now.path)
            self._client.set_tag(run_id, Tag.CHECKPOINT, now.model_dump_json())
            if before is not None:
                self._remove(run, before.path)

    def find(self, key: str) -> Found | None:
        """The latest checkpoint of a trial, whichever of its runs holds it."""
        with translate_errors(self._location):
            held = [Found(run, mirrored) for run in self._runs_of(key) if (mirrored := _read(run)) is not None]
            return max(held, key=lambda found: found.mirrored.epoch, default=None)

    def fetch(self, key: str, target: Path, *, after: int) -> Fetched:
        """Bring the latest checkpoint into the folder ``target``, if it is of a later epoch than ``after``.

        One that is not what its run says is removed, so that nobody finds it again.
        """
        for _ in range(_TRIES):
            found = self.find(key)
            if found is None:
                return Fetched(None, "no checkpoint of it is mirrored")
            if found.mirrored.epoch <= after:
                return Fetched(None, f"the mirrored checkpoint is of epoch {found.mirrored.epoch}")
            try:
                self._download(found, target)
            except _DamagedError as error:
                newer = self.find(key)
                if newer is not None and newer.mirrored != found.mirrored:  # just now replaced
                    continue
                with translate_errors(self._location):
                    self._withdraw_from(found.run)
                return Fetched(None, f"the mirrored checkpoint is damaged: {error}", is_damaged=True)
            return Fetched(found.mirrored.epoch, found.describe())
        raise TrackingError(f"{self._location}: the checkpoint of {key} is replaced faster than it can be fetched")

    def withdraw(self, key: str) -> None:
        """Let no run of a trial hold a checkpoint any more."""
        with translate_errors(self._location):
            for run in self._runs_of(key):
                self._withdraw_from(run)

    def _runs_of(self, key: str) -> list[Run]:
        experiments = [str(found.experiment_id) for found in all_experiments(self._client)]
        return search_runs(self._client, experiments, match_trials(key))

    def _withdraw_from(self, run: Run) -> None:
        if Tag.CHECKPOINT in run.data.tags:
            self._client.delete_tag(run.info.run_id, Tag.CHECKPOINT)
        if any(file.path == FOLDER for file in self._client.list_artifacts(run.info.run_id)):
            self._remove(run, FOLDER)

    def _download(self, found: Found, target: Path) -> None:
        """Size by size first, as a file that is not there at all looks like trouble of the server's when it is asked for."""
        run_id, said = str(found.run.info.run_id), found.mirrored
        with translate_errors(self._location):
            sizes = {str(file.path): file.file_size for file in self._client.list_artifacts(run_id, said.path)}
            for name, expected in said.files.items():
                path = f"{said.path}/{name}"
                size = sizes.get(path)
                if size != expected.size:
                    raise _DamagedError(
                        f"{self._location}: {path} of run {run_id} {'is gone' if size is None else f'has {size} bytes'}, "
                        f"and had {expected.size}"
                    )
                fetched = Path(self._client.download_artifacts(run_id, path, str(target)))
                if _measure(fetched) != expected:
                    raise _DamagedError(f"{self._location}: {path} of run {run_id} is not what was sent: its SHA-256 differs")
                fetched.replace(target / name)

    def _remove(self, run: Run, path: str) -> None:
        """Remove files of a run; who may add to an experiment need not be allowed to, and then empties them."""
        repository = get_artifact_repository(str(run.info.artifact_uri), tracking_uri=self._location.uri)
        try:
            with translate_errors(self._location):
                repository.delete_artifacts(path)  # type: ignore[no-untyped-call]  # it has no types
        except TrackingError:
            for name in list(self._list_files(str(run.info.run_id), path)):
                self._empty(str(run.info.run_id), name)

    def _list_files(self, run_id: str, path: str) -> Iterator[str]:
        for file in self._client.list_artifacts(run_id, path):
            if file.is_dir:
                yield from self._list_files(run_id, str(file.path))
            elif file.file_size:
                yield str(file.path)

    def _empty(self, run_id: str, name: str) -> None:
        with tempfile.TemporaryDirectory() as scratch:
            empty = Path(scratch) / Path(name).name
            empty.touch()
            self._client.log_artifact(run_id, str(empty), str(Path(name).parent))


def _read(run: Run) -> Mirrored | None:
    """What its tag says; None where it has none that this version understands."""
    with suppress(KeyError, ValidationError):
        found = Mirrored.model_validate_json(run.data.tags[Tag.CHECKPOINT])
        return found if found.files.keys() == {*RESUME_FILES} else None  # they become names of files here
    return None


def _measure(file: Path) -> _File:
    with open(file, "rb") as opened:
        return _File(size=file.stat().st_size, sha256=hashlib.file_digest(opened, "sha256").hexdigest())
