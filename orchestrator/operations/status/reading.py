"""Ledger and trial folders -> how a sweep and each of its trials stand; reads, and changes nothing."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from orchestrator.errors import TrialError
from orchestrator.operations.status.pace import Course, TimeLeft, estimate_left, trials_per_hour
from orchestrator.operations.sync import is_held, list_resting
from orchestrator.planning.shared import SharedPlan, read_shared_plan
from orchestrator.state.home import Home
from orchestrator.state.ledger import DispatcherRow, Ledger, LedgerRow
from orchestrator.state.trial.folder import TrialFile, TrialFolder
from orchestrator.state.trial.records import OBJECTIVE, Event, TrialResult, TrialState
from orchestrator.tracking.location import TrackingLocation
from orchestrator.tracking.mirror_state import read_mirror_state


@dataclass(frozen=True)
class RunningTrial:
    """A trial that somebody works on. What only its folder tells is None or 0 where that lies on another machine.

    silent_s: seconds since its last sign of life. last_failure: why the attempt before this one failed.
    """

    key: str
    name: str
    host: str
    attempt: int
    slot: str | None = None
    course: Course = field(default_factory=Course)
    best: float | None = None
    images_per_s: float | None = None
    silent_s: float | None = None
    last_failure: str | None = None


@dataclass(frozen=True)
class FailedTrial:
    """failure: its kind in words, where it is known. log_tail: the end of its log."""

    key: str
    name: str
    attempts: int
    failure: str | None
    reason: str
    log_tail: str


@dataclass(frozen=True)
class SweepStatus:
    """How a sweep stands.

    counts: of its trials by state; num_proposed_later: further ones that its search may come to. interrupted: names of trials
    that nobody works on any more, though they were begun. unmirrored: of trials that rest, and of which MLflow lacks something.
    unreadable: why results in folders here cannot be read.
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
        """Of all running trials whose folders lie here."""
        speeds = [trial.images_per_s for trial in self.running if trial.images_per_s is not None]
        return sum(speeds) if speeds else None


def read_sweep(sweep: str, *, home: Home, ledger: Ledger) -> SweepStatus:
    """Look at one sweep.

    Raises:
        SpecError: its plan was written by another version.
    """
    shared = read_shared_plan(ledger, sweep)
    names = _Names(home, shared)
    every = [*names.planned, *sorted(ledger.members(sweep).keys() - names.planned.keys())]
    known = ledger.states(every, sweep)
    held = {key: row for key, row in known.items() if is_held(row, ledger, home)}
    left_out = set(shared.left_out) - held.keys() if shared else set()  # a dispatcher may be at an earlier form of the file
    keys = [key for key in every if key not in left_out]
    rows = {key: known[key] for key in keys if key in known}
    states = {key: _state_of(rows.get(key), is_held=key in held) for key in keys}
    dispatchers = tuple(row for row in ledger.roster.list_alive(home.is_alive) if row.sweep == sweep)
    now_s = ledger.now_s()
    running = tuple(_read_running(key, names.of(key), row, home=home, now_s=now_s) for key, row in held.items())
    results, unreadable = _read_results(home, [key for key, state in states.items() if state.has_ended])
    own = [result for key, result in results.items() if rows[key].sweep == sweep]
    num_later = max(0, shared.num_allowed - len(keys)) if shared and shared.num_allowed is not None else 0
    num_waiting = num_later + sum(state is TrialState.WAITING for state in states.values())
    return SweepStatus(
        sweep=sweep,
        counts=Counter(states.values()),
        num_proposed_later=num_later,
        dispatchers=dispatchers,
        running=running,
        interrupted=tuple(names.of(key) for key, row in rows.items() if row.state is TrialState.RUNNING and key not in held),
        failed=tuple(
            _read_failed(key, names.of(key), rows[key], results.get(key))
            for key, state in states.items()
            if state is TrialState.FAILED
        ),
        unreadable=tuple(unreadable),
        unmirrored=tuple(names.of(folder.path.name) for folder in _list_unmirrored(sweep, home, ledger)),
        best=max(_read_figures(results, names), key=lambda named: named[1], default=None),
        trials_per_h=_measure_pace(own, dispatchers, now_s),
        left=estimate_left([trial.course for trial in running], num_waiting, _list_durations(own)),
        priority=shared.spec.priority if shared else 0,
    )


class _Names:
    """What to call a trial: as the sweep's plan does, else as it calls itself, else by its key."""

    def __init__(self, home: Home, shared: SharedPlan | None) -> None:
        self._home = home
        self.planned = {trial.key: trial.name for trial in shared.trials} if shared else {}

    def of(self, key: str) -> str:
        if key in self.planned:
            return self.planned[key]
        try:
            return TrialFolder(self._home.trial_folder(key)).spec().name
        except TrialError:  # on another machine, or damaged
            return key


def _state_of(row: LedgerRow | None, *, is_held: bool) -> TrialState:
    """What was planned and not come to yet waits, and so does what nobody works on any more."""
    if row is None or (row.state is TrialState.RUNNING and not is_held):
        return TrialState.WAITING
    return row.state


def _read_results(home: Home, keys: Iterable[str]) -> tuple[dict[str, TrialResult], list[str]]:
    """Results by key, and what is wrong with those that cannot be read: the others are to be seen all the same."""
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
    assert row.owner is not None, "somebody holds it"
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
        course=Course() if start is None else _read_course(start, epochs, folder.spec().train.epochs, now_s),
        best=max(
            (event.metrics[OBJECTIVE] for event in epochs if math.isfinite(event.metrics.get(OBJECTIVE, math.nan))), default=None
        ),
        images_per_s=None if last is None else last.metrics.get("images_per_s"),
        silent_s=None if start is None else max(0.0, now_s - _last_sign_s(folder, start)),
        last_failure=None if failure is None or failure.failure is None else f"{failure.failure.words}: {failure.reason}",
    )


def _read_course(start: Event, epochs: Sequence[Event], num_epochs: int, now_s: float) -> Course:
    own = [event for event in epochs if event.attempt == start.attempt]
    if not own:
        return Course(epochs[-1].epoch or 0 if epochs else 0, num_epochs)
    epoch_s = (own[-1].time_s - start.time_s) / len(own)
    return Course(own[-1].epoch or 0, num_epochs, epoch_s, since_s=max(0.0, now_s - own[-1].time_s))


def _last_sign_s(folder: TrialFolder, start: Event) -> float:
    """Unix time of the last sign of life."""
    try:
        return max(start.time_s, folder.heartbeat.stat().st_mtime)
    except FileNotFoundError:
        return start.time_s


def _read_failed(key: str, name: str, row: LedgerRow, result: TrialResult | None) -> FailedTrial:
    """By its folder, or where that lies on another machine by what the ledger was told."""
    failure = result.failure.words if result and result.failure else None
    reason = (result.reason if result else None) or row.reason or "no reason was given"
    return FailedTrial(key, name, row.attempt, failure, reason, (result.log_tail if result else None) or "")


def _read_figures(results: Mapping[str, TrialResult], names: _Names) -> Iterator[tuple[str, float]]:
    for key, result in results.items():
        value = result.metrics.get(OBJECTIVE, math.nan)
        if result.state is TrialState.COMPLETE and math.isfinite(value):
            yield names.of(key), value


def _measure_pace(own: Iterable[TrialResult], dispatchers: Sequence[DispatcherRow], now_s: float) -> float | None:
    """Since those began that run now."""
    if not dispatchers:
        return None
    return trials_per_hour([r.ended_s for r in own], since_s=min(row.started_s for row in dispatchers), now_s=now_s)


def _list_durations(own: Iterable[TrialResult]) -> list[float]:
    """Of complete trials; of those that came to it at the first attempt, where there are any: the others include pauses."""
    complete = [result for result in own if result.state is TrialState.COMPLETE]
    first = [result for result in complete if result.attempt == 1]
    return [result.ended_s - result.started_s for result in first or complete]


def _list_unmirrored(sweep: str, home: Home, ledger: Ledger) -> Iterator[TrialFolder]:
    """Of what was trained on this machine: what was taken over came from the server."""
    server = str(TrackingLocation.of(home))
    for folder in list_resting(sweep, home=home, ledger=ledger):
        progress = folder.path / TrialFile.PROGRESS
        if progress.exists():
            sent = read_mirror_state(folder, server)
            is_ended = folder.has_result
            if sent is None or sent.running or sent.ended != is_ended or sent.offset < progress.stat().st_size:
                yield folder
