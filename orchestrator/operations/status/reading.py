"""Reads how a sweep and its trials stand, from ledger and trial folders, and which slots are in use. Changes nothing."""

import math
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from orchestrator.errors import LaunchError, TrialError
from orchestrator.launchers.slots.locks import LockFolder
from orchestrator.launchers.slots.table import find_slots
from orchestrator.operations.status.pace import TimeLeft, TrialProgress, estimate_left, trials_per_hour
from orchestrator.operations.sync import is_held, list_idle
from orchestrator.planning.shared import read_shared_plan
from orchestrator.state.home import Home
from orchestrator.state.ledger import DispatcherRow, Ledger, LedgerRow
from orchestrator.state.trial.folder import TrialFile, TrialFolder
from orchestrator.state.trial.records import OBJECTIVE, Event, TrialResult, TrialState
from orchestrator.tracking.location import TrackingLocation
from orchestrator.tracking.mirror_state import read_mirror_state


@dataclass(frozen=True)
class RunningTrial:
    """A trial that a dispatcher holds. Fields from its folder are None or 0 if the folder is on another machine.

    silent_s: seconds since its last sign of life. last_failure: why the previous attempt failed.
    """

    key: str
    name: str
    host: str
    attempt: int
    slot: str | None = None
    progress: TrialProgress = field(default_factory=TrialProgress)
    best: float | None = None
    images_per_s: float | None = None
    silent_s: float | None = None
    last_failure: str | None = None


@dataclass(frozen=True)
class FailedTrial:
    """failure: its kind in words, if known. log_tail: the end of its log."""

    key: str
    name: str
    attempts: int
    failure: str | None
    reason: str
    log_tail: str


@dataclass(frozen=True)
class SweepStatus:
    """How a sweep stands.

    counts: trials by state. num_proposed_later: further trials that its search may propose. interrupted: names of started trials
    that no dispatcher holds. unmirrored: names of trials that MLflow lacks something of. unreadable: errors of result files.
    """

    sweep: str
    counts: Mapping[TrialState, int]
    num_proposed_later: int
    dispatchers: tuple[DispatcherRow, ...]
    running: tuple[RunningTrial, ...]
    interrupted: tuple[str, ...]
    failed: tuple[FailedTrial, ...]
    unreadable: tuple[str, ...]
    unmirrored: tuple[str, ...]
    best: tuple[str, float] | None
    trials_per_h: float | None
    left: TimeLeft
    priority: int = 0

    @property
    def images_per_s(self) -> float | None:
        """Speed of all running trials with folders on this machine; None if there are none."""
        speeds = [trial.images_per_s for trial in self.running if trial.images_per_s is not None]
        return sum(speeds) if speeds else None


def read_sweep(sweep: str, *, home: Home, ledger: Ledger) -> SweepStatus:
    """Read the state of one sweep.

    Raises:
        SpecError: another version wrote its plan.
    """
    shared = read_shared_plan(ledger, sweep)
    names = {trial.key: trial.name for trial in shared.trials} if shared else {}
    names |= {key: _read_name(home, key) for key in sorted(ledger.members(sweep).keys() - names.keys())}
    known = ledger.states(names, sweep)
    held = {key: row for key, row in known.items() if is_held(row, ledger, home)}
    left_out = set(shared.left_out) - held.keys() if shared else set()  # a dispatcher may still run an earlier form of the file
    keys = [key for key in names if key not in left_out]
    rows = {key: known[key] for key in keys if key in known}
    # a planned trial without a row waits, and so does a started one that no dispatcher holds
    interrupted = [key for key, row in rows.items() if row.state is TrialState.RUNNING and key not in held]
    states = {key: rows[key].state if key in rows else TrialState.WAITING for key in keys}
    states |= dict.fromkeys(interrupted, TrialState.WAITING)
    dispatchers = tuple(row for row in ledger.roster.list_alive(home.is_alive) if row.sweep == sweep)
    now_s = ledger.now_s()
    running = tuple(_read_running(key, names[key], row, home=home, now_s=now_s) for key, row in held.items())
    results, unreadable = _read_results(home, [key for key, state in states.items() if state.has_ended])
    own = [result for key, result in results.items() if rows[key].sweep == sweep]
    num_later = max(0, shared.num_allowed - len(keys)) if shared and shared.num_allowed is not None else 0
    num_waiting = num_later + sum(state is TrialState.WAITING for state in states.values())
    complete = {key: result for key, result in results.items() if result.state is TrialState.COMPLETE}
    scores = [(names[key], value) for key, r in complete.items() if math.isfinite(value := r.metrics.get(OBJECTIVE, math.nan))]
    since_s = min((row.started_s for row in dispatchers), default=math.inf)  # without a dispatcher there is no pace
    return SweepStatus(
        sweep=sweep,
        counts=Counter(states.values()),
        num_proposed_later=num_later,
        dispatchers=dispatchers,
        running=running,
        interrupted=tuple(names[key] for key in interrupted),
        failed=tuple(
            _read_failed(key, names[key], rows[key], results.get(key))
            for key, state in states.items()
            if state is TrialState.FAILED
        ),
        unreadable=tuple(unreadable),
        unmirrored=tuple(names.get(folder.path.name, folder.path.name) for folder in _list_unmirrored(sweep, home, ledger)),
        best=max(scores, key=lambda named: named[1], default=None),
        trials_per_h=trials_per_hour([result.ended_s for result in own], since_s=since_s, now_s=now_s),
        left=estimate_left([trial.progress for trial in running], num_waiting, _list_durations(own)),
        priority=shared.spec.priority if shared else 0,
    )


def _read_name(home: Home, key: str) -> str:
    try:
        return TrialFolder(home.trial_folder(key)).spec().name
    except TrialError:  # on another machine, or damaged
        return key


def _read_results(home: Home, keys: Iterable[str]) -> tuple[dict[str, TrialResult], list[str]]:
    """Results by key, and the errors of those that cannot be read."""
    results: dict[str, TrialResult] = {}
    unreadable = []
    for key in keys:
        try:
            result = TrialFolder(home.trial_folder(key)).result()
        except TrialError as error:
            unreadable.append(str(error))
            continue
        if result is not None:
            results[key] = result
    return results, unreadable


def _read_running(key: str, name: str, row: LedgerRow, *, home: Home, now_s: float) -> RunningTrial:
    assert row.owner is not None, "a dispatcher holds it"
    host = row.owner.rsplit(":", 2)[0]
    folder = TrialFolder(home.trial_folder(key))
    events = folder.events()[0]
    start = next((e for e in reversed(events) if e.kind == "attempt_started" and e.attempt == row.attempt), None)
    failure = next((event for event in reversed(events) if event.failure is not None), None)
    epochs = [event for event in events if event.kind == "epoch"]
    last = epochs[-1] if epochs and epochs[-1].attempt == row.attempt else None
    return RunningTrial(
        key=key,
        name=name,
        host=host,
        attempt=row.attempt,
        slot=None if start is None else str(start.facts.get("slot")),
        progress=TrialProgress() if start is None else _read_progress(start, epochs, folder.spec().train.epochs, now_s),
        best=max(
            (event.metrics[OBJECTIVE] for event in epochs if math.isfinite(event.metrics.get(OBJECTIVE, math.nan))), default=None
        ),
        images_per_s=None if last is None else last.metrics.get("images_per_s"),
        silent_s=None if start is None else max(0.0, now_s - _last_sign_s(folder, start)),
        last_failure=None if failure is None or failure.failure is None else f"{failure.failure.words}: {failure.reason}",
    )


def _read_progress(start: Event, epochs: Sequence[Event], num_epochs: int, now_s: float) -> TrialProgress:
    own = [event for event in epochs if event.attempt == start.attempt]
    if not own:
        return TrialProgress(epochs[-1].epoch or 0 if epochs else 0, num_epochs)
    epoch_s = (own[-1].time_s - start.time_s) / len(own)
    return TrialProgress(own[-1].epoch or 0, num_epochs, epoch_s, since_s=max(0.0, now_s - own[-1].time_s))


def _last_sign_s(folder: TrialFolder, start: Event) -> float:
    """Unix time of the last sign of life."""
    try:
        return max(start.time_s, (folder.path / TrialFile.HEARTBEAT).stat().st_mtime)
    except FileNotFoundError:
        return start.time_s


def _read_failed(key: str, name: str, row: LedgerRow, result: TrialResult | None) -> FailedTrial:
    """From its folder, or from the ledger if the folder is on another machine."""
    failure = result.failure.words if result and result.failure else None
    reason = (result.reason if result else None) or row.reason or "unknown reason"
    return FailedTrial(key, name, row.attempt, failure, reason, (result.log_tail if result else None) or "")


def _list_durations(own: Iterable[TrialResult]) -> list[float]:
    """Durations of complete trials; only of those with one attempt, if there are any: others include pauses."""
    complete = [result for result in own if result.state is TrialState.COMPLETE]
    first = [result for result in complete if result.attempt == 1]
    return [result.ended_s - result.started_s for result in first or complete]


def _list_unmirrored(sweep: str, home: Home, ledger: Ledger) -> Iterator[TrialFolder]:
    """Folders of trials trained on this machine; adopted ones came from the server."""
    server = str(TrackingLocation.of(home))
    for folder in list_idle(sweep, home=home, ledger=ledger):
        progress = folder.path / TrialFile.PROGRESS
        if progress.exists():
            state = read_mirror_state(folder, server)
            if state is None or state.running or state.ended != folder.has_result or state.offset < progress.stat().st_size:
                yield folder


@dataclass(frozen=True)
class SlotUse:
    """Names of slots. free: of those that a sweep uses by default. problem: why this machine's slots are unknown."""

    in_use: tuple[str, ...]
    free: tuple[str, ...]
    problem: str | None = None

    def describe(self) -> str:
        """One line for people."""
        names = f" ({', '.join(self.in_use)})" if self.in_use else ""
        return f"slots of this machine: {len(self.in_use)} in use{names}, {self.problem or f'{len(self.free)} free'}"


def find_slot_use() -> SlotUse:
    """Check all slots that were ever used here, and those that a sweep uses by default."""
    locked: list[str] = []
    try:
        folder = LockFolder()
        for path in sorted(folder.path.glob("*.lock")):
            if (descriptor := folder.try_lock(path.stem)) is None:
                locked.append(path.stem)
            else:
                os.close(descriptor)
        own = [slot.name for slot in find_slots()]
    except LaunchError as error:
        return SlotUse(tuple(locked), (), str(error))
    return SlotUse(tuple(locked), tuple(name for name in own if name not in locked))
