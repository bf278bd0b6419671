"""Trials that were tried on other machines: fetches what they go on from, while other trials run."""

from __future__ import annotations

import logging
import shutil
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue

from orchestrator.dispatch.loop.endings import Ending, find_unentered
from orchestrator.dispatch.loop.memory import Needs
from orchestrator.dispatch.loop.ports import CheckpointSource
from orchestrator.dispatch.loop.retries import Retries, Terms
from orchestrator.errors import TrackingError
from orchestrator.spec.sections import KeepSpec, LimitsSpec
from orchestrator.state.ledger import Ledger
from orchestrator.state.trial.checkpoint import enter, find_epoch
from orchestrator.state.trial.folder import TrialFile, TrialFolder
from orchestrator.state.trial.records import Attempt, TrialSpec

PATIENCE_S = 600.0
"""For so long a server that is away is waited for, rather than to train anew what it may hold."""

ASK_S = 5.0
"""Between two questions to it."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Wanted:
    """attempt: the last that the ledger knows of. deadline_s: for how long a server that is away is asked again."""

    spec: TrialSpec
    folder: TrialFolder
    attempt: int
    deadline_s: float


@dataclass(frozen=True)
class _Origin:
    """What a trial's next attempt goes on from. copy: the fetched checkpoint, of ``epoch``; None: whatever its folder holds."""

    attempt: int
    says: str
    copy: Path | None = None
    epoch: int = 0


class Takeovers:
    """Knows which trials were tried on other machines, and gets their checkpoints in a thread of its own.

    A trial is claimed when its checkpoint is here: until then neither slot nor claim waits for a server. Used by one thread.
    open_source: called in the other thread, once there is something to fetch; None: there is no server to ask.
    """

    def __init__(
        self,
        open_source: Callable[[], CheckpointSource] | None,
        ledger: Ledger,
        scratch: Path,
        *,
        patience_s: float = PATIENCE_S,
    ) -> None:
        self._open_source = open_source
        self._ledger = ledger
        self._scratch = scratch
        self._patience_s = patience_s
        self._source: CheckpointSource | None = None
        self._awaited: dict[str, TrialSpec] = {}
        self._origins: dict[str, _Origin] = {}
        self._wanted: SimpleQueue[_Wanted] = SimpleQueue()
        self._arrived: SimpleQueue[tuple[str, _Origin]] = SimpleQueue()
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None

    def __len__(self) -> int:
        """Trials that are waited for."""
        return len(self._awaited)

    def must_wait(self, spec: TrialSpec, folder: TrialFolder) -> bool:
        """Whether the trial is to be started later, when ``take_arrived`` gives it back."""
        if self._open_source is None:
            return False
        row = self._ledger.states([spec.key]).get(spec.key)
        if row is None or row.attempt <= folder.last_attempt() or row.is_held(self._ledger.now_s()):
            return False
        if spec.key in self._origins and self._origins[spec.key].attempt == row.attempt:
            return False
        self._awaited[spec.key] = spec
        self._wanted.put(_Wanted(spec, folder, row.attempt, time.monotonic() + self._patience_s))
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="takeovers", daemon=True)
            self._thread.start()
        return True

    def take_arrived(self) -> list[TrialSpec]:
        """Trials that can be started now."""
        arrived = []
        while not self._arrived.empty():
            key, origin = self._arrived.get()
            self._drop(key)  # what was fetched before, and is not the last any more
            self._origins[key] = origin
            arrived.append(self._awaited.pop(key))
        return arrived

    def enter(self, spec: TrialSpec, folder: TrialFolder) -> str | None:
        """Put what was fetched into the folder of a trial that is ours now; says what it goes on from, if that was a question."""
        origin = self._origins.get(spec.key)
        if origin is None:
            return None
        (folder.path / TrialFile.MIRRORED).touch()
        if origin.copy is not None:
            enter(folder, origin.copy, origin.epoch)
        self._drop(spec.key)
        return origin.says

    def close(self) -> None:
        """Remove what was fetched for nothing."""
        self._closed.set()
        for key in list(self._origins):
            self._drop(key)

    def _drop(self, key: str) -> None:
        origin = self._origins.pop(key, None)
        if origin is not None and origin.copy is not None:
            shutil.rmtree(origin.copy, ignore_errors=True)

    def _work(self) -> None:
        while not self._closed.is_set():
            wanted = self._wanted.get()
            self._arrived.put((wanted.spec.key, self._find(wanted)))

    def _find(self, wanted: _Wanted) -> _Origin:
        """Fetch it, however often the server has to be asked; whatever goes wrong, the trial can be trained."""
        has_told = False
        while True:
            try:
                return self._fetch(wanted)
            except TrackingError as error:
                if self._closed.is_set() or time.monotonic() >= wanted.deadline_s:
                    return _go_on_here(wanted, f"the tracking server could not be asked for a checkpoint: {error}")
                if not has_told:
                    _log.warning("%s waits: its checkpoint cannot be asked for: %s", wanted.spec.name, error)
                has_told = True
                self._closed.wait(ASK_S)
            except Exception as error:
                _log.warning("%s: its checkpoint cannot be fetched", wanted.spec.name, exc_info=True)
                return _go_on_here(wanted, f"no checkpoint could be fetched: {type(error).__name__}: {error}")

    def _fetch(self, wanted: _Wanted) -> _Origin:
        if self._source is None:
            assert self._open_source is not None, "nothing is wanted where there is no server"
            self._source = self._open_source()
        self._scratch.mkdir(parents=True, exist_ok=True)
        copy = Path(tempfile.mkdtemp(dir=self._scratch))
        epoch = None
        try:
            fetched = self._source.fetch(wanted.spec.key, copy, after=find_epoch(wanted.folder))
            epoch = fetched.epoch
        finally:
            if epoch is None:
                shutil.rmtree(copy, ignore_errors=True)
        if epoch is None:
            if fetched.is_damaged:
                _log.warning("%s: %s", wanted.spec.name, fetched.says)
            return _go_on_here(wanted, fetched.says)
        return _Origin(wanted.attempt, fetched.says, copy, epoch)


def _go_on_here(wanted: _Wanted, why: str) -> _Origin:
    epoch = find_epoch(wanted.folder)
    what = f"goes on from epoch {epoch} of this machine" if epoch else "starts anew"
    return _Origin(wanted.attempt, f"{what}: {why}")


@dataclass(frozen=True)
class Layout:
    """What all attempts of a dispatcher have in common. data_folder_of: where a trial's prepared data lies on this machine."""

    ledger: Ledger
    retries: Retries
    needs: Needs
    data_folder_of: Callable[[TrialSpec], Path]
    limits: LimitsSpec
    keep: KeepSpec
    takeovers: Takeovers

    def prepare(self, spec: TrialSpec, folder: TrialFolder, attempt: int) -> Ending | None:
        """Make the folder ready for a claimed attempt; returns the end that lies in it and that the ledger did not know.

        Raises:
            TrialError: the folder is another trial's.
            DataError: the trial's data cannot be used.
        """
        folder.create(spec)
        ending = find_unentered(self.ledger, folder, spec.key)
        if ending is not None and not (ending := self.retries.reconsider(spec, folder, ending)).is_retry:
            return ending
        folder.discard_result()
        origin = self.takeovers.enter(spec, folder)
        terms = self.note_terms(spec, folder)
        folder.write_attempt(
            Attempt(
                number=attempt,
                data_folder=str(self.data_folder_of(spec)),
                accumulate=terms.accumulate,
                deviation=terms.deviation,
                silence_s=self.limits.silence_s,
                checkpoint_s=self.limits.checkpoint_s,
                keep_flips=self.keep.flips,
                origin=origin,
            )
        )
        return None

    def note_terms(self, spec: TrialSpec, folder: TrialFolder) -> Terms:
        """The terms of a trial's next attempt, which are taken note of for its need."""
        terms = self.retries.choose_terms(spec, folder.events()[0])
        self.needs.note_terms(spec, terms)
        return terms
