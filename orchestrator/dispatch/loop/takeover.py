"""Takes over what other dispatchers left: claims of dead ones, results of finished trials, checkpoints of other machines."""

import functools
import logging
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue

from orchestrator.dispatch.loop.outcomes import AttemptOutcome
from orchestrator.dispatch.loop.ports import CheckpointSource, FindResult, PlannedTrial, Session
from orchestrator.errors import TrackingError
from orchestrator.state.ledger import LedgerRow
from orchestrator.state.trial.checkpoint import enter, find_epoch
from orchestrator.state.trial.endings import leave_waiting
from orchestrator.state.trial.folder import TrialFile, TrialFolder
from orchestrator.state.trial.records import TrialResult, TrialSpec, TrialState

PATIENCE_S = 600.0
"""A server that does not answer is asked for this long before a trial trains without its checkpoint."""

ASK_S = 5.0
"""Interval between two requests for a checkpoint."""

RESULT_GRACE_S = 300.0
"""The ledger may list a trial as complete minutes before its result has reached a slow server. Time in which the server does not
answer does not count."""

ASK_RESULT_S = 10.0
"""Interval between two requests for the same result; each may use the network."""

RESULT_LOST = "it was complete, but its result is neither here nor on the tracking server: it runs again"

TAKEN_OVER = "another dispatcher has taken it over"

_log = logging.getLogger(__name__)


def reclaim_orphans(session: Session) -> Iterator[tuple[str, TrialFolder]]:
    """Free the claims of dead dispatchers of this machine and close their attempts; yields sweep and folder of each.

    An attempt that left a result stays as it is: whoever claims the trial next finds that result.
    """
    keys = session.ledger.reclaim(session.home.is_dead)
    for key, row in session.ledger.states(keys).items():
        folder = TrialFolder(session.home.trial_folder(key))
        if row.sweep is not None and folder.has_trial and folder.result() is None:
            leave_waiting(folder, row.attempt, reason="its dispatcher died")
            yield row.sweep, folder


class FinishedTrials:
    """Outcomes of trials that ended before this dispatcher came to them."""

    def __init__(self, session: Session, find_result: FindResult | None, clock: Callable[[], float]) -> None:
        self._session = session
        self._find_result = find_result
        self._clock = clock
        self._missing_since_s: dict[str, float] = {}
        self._asked_s: dict[str, float] = {}

    def read(self, spec: TrialSpec, row: LedgerRow) -> AttemptOutcome | None:
        """How a trial ended that has ended in the ledger; None if it is COMPLETE and its result cannot be found now."""
        folder = self._session.folder_of(spec)
        if (result := folder.complete_result()) is not None:  # possibly after a failure here, which another machine took over
            return AttemptOutcome(TrialState.COMPLETE, result)
        if row.state is not TrialState.COMPLETE:
            return AttemptOutcome(row.state, folder.result(), row.reason)
        if (found := self._ask(spec)) is None:
            self._missing_since_s.setdefault(spec.key, self._clock())
            return None
        return AttemptOutcome(TrialState.COMPLETE, found, is_others=folder.complete_result() is None)

    def may_come(self, spec: TrialSpec) -> bool:
        """Whether a result that ``read`` did not find may still arrive."""
        return self._find_result is not None and self._clock() < self._missing_since_s[spec.key] + RESULT_GRACE_S

    def _ask(self, spec: TrialSpec) -> TrialResult | None:
        now_s = self._clock()
        if self._find_result is None or now_s < self._asked_s.get(spec.key, -ASK_RESULT_S) + ASK_RESULT_S:
            return None
        self._asked_s[spec.key] = now_s
        try:
            return self._find_result(spec)
        except TrackingError as error:
            _log.warning("%s: the tracking server did not return its result: %s", spec.name, error)
            self._missing_since_s[spec.key] = self._clock()
            return None


@dataclass(frozen=True)
class _Request:
    """A checkpoint to fetch. attempt: the last in the ledger. deadline_s: stop asking a server that does not answer."""

    trial: PlannedTrial
    folder: TrialFolder
    attempt: int
    deadline_s: float


@dataclass(frozen=True)
class _Origin:
    """Where a trial's next attempt starts. copy: the fetched checkpoint, of ``epoch``; None: use what its folder holds."""

    attempt: int
    description: str
    copy: Path | None = None
    epoch: int = 0


class Takeovers:
    """Fetches the checkpoints of trials that ran on other machines, in a separate thread.

    A trial is claimed after its checkpoint has arrived: until then no slot and no claim waits for a server. Used by one thread.
    open_source: as Ports.open_checkpoints.
    """

    def __init__(
        self, session: Session, open_source: Callable[[], CheckpointSource] | None, *, patience_s: float = PATIENCE_S
    ) -> None:
        self._open_source = functools.cache(open_source) if open_source else None
        self._ledger = session.ledger
        self._scratch = session.home.cache / "checkpoints"
        self._patience_s = patience_s
        self._awaited: dict[str, PlannedTrial] = {}
        self._origins: dict[str, _Origin] = {}
        self._requests: SimpleQueue[_Request] = SimpleQueue()
        self._arrived: SimpleQueue[tuple[str, _Origin]] = SimpleQueue()
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None

    def __len__(self) -> int:
        """Number of trials that wait for a checkpoint."""
        return len(self._awaited)

    def must_wait(self, trial: PlannedTrial, folder: TrialFolder) -> bool:
        """Whether to start the trial later, after ``take_arrived`` has returned it."""
        if self._open_source is None:
            return False
        key = trial.spec.key
        row = self._ledger.states([key]).get(key)
        if row is None or row.attempt <= folder.last_attempt() or row.is_held(self._ledger.now_s()):
            return False
        if key in self._origins and self._origins[key].attempt == row.attempt:
            return False
        self._awaited[key] = trial
        self._requests.put(_Request(trial, folder, row.attempt, time.monotonic() + self._patience_s))
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="takeovers", daemon=True)
            self._thread.start()
        return True

    def take_arrived(self) -> list[PlannedTrial]:
        """Trials that can start now."""
        arrived = []
        while not self._arrived.empty():
            key, origin = self._arrived.get()
            self._drop(key)  # an older checkpoint that was fetched before
            self._origins[key] = origin
            arrived.append(self._awaited.pop(key))
        return arrived

    def enter(self, spec: TrialSpec, folder: TrialFolder) -> str | None:
        """Put the fetched checkpoint into the folder of a claimed trial; returns where it starts, if that was in question."""
        origin = self._origins.get(spec.key)
        if origin is None:
            return None
        (folder.path / TrialFile.MIRRORED).touch()
        if origin.copy is not None:
            enter(folder, origin.copy, origin.epoch)
        self._drop(spec.key)
        return origin.description

    def close(self) -> None:
        """Remove unused checkpoints."""
        self._closed.set()
        for key in list(self._origins):
            self._drop(key)

    def _drop(self, key: str) -> None:
        origin = self._origins.pop(key, None)
        if origin is not None and origin.copy is not None:
            shutil.rmtree(origin.copy, ignore_errors=True)

    def _work(self) -> None:
        while not self._closed.is_set():
            request = self._requests.get()
            self._arrived.put((request.trial.spec.key, self._find(request)))

    def _find(self, request: _Request) -> _Origin:
        """Fetch a checkpoint, asking repeatedly if necessary; after any error the trial can still train without it."""
        has_warned = False
        while True:
            try:
                return self._fetch(request)
            except TrackingError as error:
                if self._closed.is_set() or time.monotonic() >= request.deadline_s:
                    return _start_here(request, f"the tracking server did not answer: {error}")
                if not has_warned:
                    _log.warning("%s waits: the tracking server does not answer: %s", request.trial.spec.name, error)
                has_warned = True
                self._closed.wait(ASK_S)
            except Exception as error:
                _log.warning("%s: its checkpoint cannot be fetched", request.trial.spec.name, exc_info=True)
                return _start_here(request, f"no checkpoint could be fetched: {type(error).__name__}: {error}")

    def _fetch(self, request: _Request) -> _Origin:
        assert self._open_source is not None, "without a server nothing is requested"
        source = self._open_source()
        self._scratch.mkdir(parents=True, exist_ok=True)
        copy = Path(tempfile.mkdtemp(dir=self._scratch))
        epoch = None
        try:
            fetched = source.fetch(request.trial.spec.key, copy, after=find_epoch(request.folder))
            epoch = fetched.epoch
        finally:
            if epoch is None:
                shutil.rmtree(copy, ignore_errors=True)
        if epoch is None:
            if fetched.is_damaged:
                _log.warning("%s: %s", request.trial.spec.name, fetched.says)
            return _start_here(request, fetched.says)
        return _Origin(request.attempt, fetched.says, copy, epoch)


def _start_here(request: _Request, why: str) -> _Origin:
    epoch = find_epoch(request.folder)
    what = f"resumes from epoch {epoch} of this machine" if epoch else "starts from scratch"
    return _Origin(request.attempt, f"{what}: {why}")
