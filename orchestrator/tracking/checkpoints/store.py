"""Checkpoints of unfinished trials, kept with their runs on the server so that another machine can resume them.

A tag of the run names the checkpoint's files, sizes and hashes. Uploads alternate between two folders, and the tag changes when
an upload is complete: a kill in the middle leaves the previous checkpoint intact.
"""

import hashlib
import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import mlflow  # noqa: F401  whole, before its parts (see tracking/__init__.py)
from mlflow.entities import Run
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from pydantic import BaseModel, ConfigDict, ValidationError

from orchestrator.errors import TrackingError
from orchestrator.state.trial.checkpoint import RESUME_FILES, Fetched, copied
from orchestrator.state.trial.folder import TrialFolder
from orchestrator.state.trial.records import TrialState
from orchestrator.tracking.client import connect, search_everywhere
from orchestrator.tracking.errors import translate_errors
from orchestrator.tracking.location import TrackingLocation
from orchestrator.tracking.tags import Tag, match_trials

FOLDER = "checkpoint"
"""Of the run's files: contains the two folders ``0`` and ``1``."""

_TRIES = 3
"""Tries to fetch a checkpoint that others replace meanwhile."""


class _File(BaseModel):
    model_config = ConfigDict(frozen=True)
    size: int
    sha256: str


class UploadedCheckpoint(BaseModel):
    """A checkpoint on the server, as its run's tag describes it. turn: the folder that holds it, 0 or 1."""

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
class FoundCheckpoint:
    """A checkpoint on the server, and the run that holds it."""

    run: Run
    uploaded: UploadedCheckpoint

    def describe(self) -> str:
        """For people, and for the page of the run that is resumed from it."""
        found = self.uploaded
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(found.time_s))
        return f"resumed from epoch {found.epoch} of attempt {found.attempt} on {found.host}, uploaded {when} UTC"


class _DamagedError(Exception):
    """The files on the server are not those that the tag describes."""


class CheckpointStore:
    """Reads and writes the checkpoints of one tracking server. For one thread; every method may be repeated.

    Raises:
        TrackingError: the server cannot be used; so does every method.
    """

    def __init__(self, location: TrackingLocation) -> None:
        self._location = location
        self._client = connect(location)

    def send(self, folder: TrialFolder, run_id: str) -> None:
        """Upload the folder's checkpoint, unless the run has one as recent or the trial has ended elsewhere."""
        with translate_errors(self._location), copied(folder) as copy:
            if copy is None:
                return
            path, epoch = copy
            run = self._client.get_run(run_id)
            before = _read(run)
            has_ended = run.data.tags.get(Tag.STATE) not in (TrialState.RUNNING, TrialState.WAITING)
            if has_ended or (before is not None and before.epoch >= epoch):
                return
            now = UploadedCheckpoint(
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

    def find(self, key: str) -> FoundCheckpoint | None:
        """The latest checkpoint of a trial in any of its runs."""
        with translate_errors(self._location):
            held = [FoundCheckpoint(run, uploaded) for run in self._runs_of(key) if (uploaded := _read(run)) is not None]
            return max(held, key=lambda found: found.uploaded.epoch, default=None)

    def fetch(self, key: str, target: Path, *, after: int) -> Fetched:
        """Download the latest checkpoint into the folder ``target`` if it is later than epoch ``after``.

        A damaged checkpoint is deleted, so that nobody finds it again.
        """
        for _ in range(_TRIES):
            found = self.find(key)
            if found is None:
                return Fetched(None, "no checkpoint of it is on the server")
            if found.uploaded.epoch <= after:
                return Fetched(None, f"the checkpoint on the server is of epoch {found.uploaded.epoch}")
            try:
                self._download(found, target)
            except _DamagedError as error:
                newer = self.find(key)
                if newer is not None and newer.uploaded != found.uploaded:  # replaced meanwhile
                    continue
                with translate_errors(self._location):
                    self._withdraw_from(found.run)
                return Fetched(None, f"the checkpoint on the server is damaged: {error}", is_damaged=True)
            return Fetched(found.uploaded.epoch, found.describe())
        raise TrackingError(f"{self._location}: the checkpoint of {key} is replaced faster than it can be fetched")

    def withdraw(self, key: str) -> None:
        """Delete the checkpoints of all runs of a trial."""
        with translate_errors(self._location):
            for run in self._runs_of(key):
                self._withdraw_from(run)

    def _runs_of(self, key: str) -> list[Run]:
        return search_everywhere(self._client, match_trials(key))

    def _withdraw_from(self, run: Run) -> None:
        if Tag.CHECKPOINT in run.data.tags:
            self._client.delete_tag(run.info.run_id, Tag.CHECKPOINT)
        if any(file.path == FOLDER for file in self._client.list_artifacts(run.info.run_id)):
            self._remove(run, FOLDER)

    def _download(self, found: FoundCheckpoint, target: Path) -> None:
        """Compare sizes first: requesting a file that does not exist looks like a failure of the server."""
        run_id, uploaded = str(found.run.info.run_id), found.uploaded
        with translate_errors(self._location):
            sizes = {str(file.path): file.file_size for file in self._client.list_artifacts(run_id, uploaded.path)}
            for name, expected in uploaded.files.items():
                path = f"{uploaded.path}/{name}"
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
        """Delete files of a run, or empty them if the account may add files but not delete them."""
        repository = get_artifact_repository(str(run.info.artifact_uri), tracking_uri=self._location.uri)
        try:
            with translate_errors(self._location):
                repository.delete_artifacts(path)  # type: ignore[no-untyped-call]  # it has no types
        except TrackingError:
            for name in list(self._list_files(str(run.info.run_id), path)):
                with tempfile.TemporaryDirectory() as scratch:
                    empty = Path(scratch) / Path(name).name
                    empty.touch()
                    self._client.log_artifact(str(run.info.run_id), str(empty), str(Path(name).parent))

    def _list_files(self, run_id: str, path: str) -> Iterator[str]:
        for file in self._client.list_artifacts(run_id, path):
            if file.is_dir:
                yield from self._list_files(run_id, str(file.path))
            elif file.file_size:
                yield str(file.path)


def _read(run: Run) -> UploadedCheckpoint | None:
    """The run's checkpoint by its tag; None if there is none that this version can read."""
    with suppress(KeyError, ValidationError):
        found = UploadedCheckpoint.model_validate_json(run.data.tags[Tag.CHECKPOINT])
        return found if found.files.keys() == {*RESUME_FILES} else None  # these become file names on this machine
    return None


def _measure(file: Path) -> _File:
    with open(file, "rb") as opened:
        return _File(size=file.stat().st_size, sha256=hashlib.file_digest(opened, "sha256").hexdigest())
