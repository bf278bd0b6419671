"""The handling of due times: order, overlap, grace, restarts; with calls and a clock that the test sets."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from orchestrator.operations.schedule.record import Occurrence, OccurrenceState, ScheduleRecord
from orchestrator.operations.schedule.scheduler import ScheduledSweep, Scheduler
from orchestrator.spec.sections import ScheduleSpec
from orchestrator.state.home import Home
from orchestrator.state.trial.folder import TrialFolder
from orchestrator.state.trial.records import TrialResult, TrialState

TEN = datetime(2026, 11, 22, 22, tzinfo=UTC)


class Sweep:
    """A running sweep that obeys."""

    def __init__(self) -> None:
        self.num_stops = 0

    def stop(self) -> None:
        """Count."""
        self.num_stops += 1


class Evening:
    """A scheduler of sweeps with these priorities, and all that it prints and starts."""

    def __init__(self, root: Path, at_once: int = 1, **priorities: int) -> None:
        self.home = Home(root)
        self.record = ScheduleRecord(self.home.schedule)
        self.now = TEN
        self.said: list[str] = []
        self.started: dict[str, Sweep] = {}
        self.broken: set[str] = set()
        sweeps = [
            ScheduledSweep(name, Path(f"{name}.yaml"), ScheduleSpec(cron="0 22 * * *", misfire_grace_s=600), priority)
            for name, priority in priorities.items()
        ]
        self.scheduler = Scheduler(
            sweeps,
            self.record,
            self.home,
            at_once=at_once,
            launch=self._launch,
            say=self.said.append,
            now=lambda: self.now,
        )

    def _launch(self, occurrence: Occurrence, _: ScheduledSweep) -> Sweep:
        if occurrence.id in self.broken:
            raise OSError("no process to be had")
        return self.started.setdefault(occurrence.id, Sweep())

    def due(self, *names: str, at: datetime = TEN) -> None:
        """These sweeps are due, in this order."""
        for name in names:
            self.scheduler.decide(name, [at])
        self.scheduler.start_next()

    def end(self, id: str, code: int = 0, *states: str) -> None:
        """A sweep ends with these trials."""
        document = {"trials": [{"key": f"{i:016x}", "state": state} for i, state in enumerate(states)]}
        self.record.document_of(id).write_text(json.dumps(document))
        self.scheduler.end(id, code)
        self.scheduler.start_next()

    def states(self) -> dict[str, OccurrenceState]:
        """Id -> state in the record."""
        return {occurrence.id: occurrence.state for occurrence in self.record.occurrences().values()}


def at(name: str) -> str:
    """The id of this evening's occurrence."""
    return f"{name}@2026-11-22T22:00+00:00"


def test_the_highest_priority_is_first_and_equals_come_in_order(tmp_path: Path) -> None:
    """One at a time, in whatever order they became due."""
    evening = Evening(tmp_path, a=0, b=5, c=0, d=5)
    evening.due("a", "b", "c", "d")
    for name in ("b", "d", "a", "c"):
        assert list(evening.started)[-1] == at(name)
        evening.end(at(name))
    assert list(evening.started) == [at(name) for name in ("b", "d", "a", "c")]


def test_several_may_run_at_once(tmp_path: Path) -> None:
    """As many as requested."""
    evening = Evening(tmp_path, at_once=2, a=0, b=0, c=0)
    evening.due("a", "b", "c")
    assert list(evening.started) == [at("a"), at("b")]
    assert evening.states()[at("c")] is OccurrenceState.WAITING


def test_a_sweep_never_runs_twice_at_a_time(tmp_path: Path) -> None:
    """Times due meanwhile are skipped, reported and recorded, whether it runs or waits."""
    evening = Evening(tmp_path, a=1, b=0)
    evening.due("a", "b")
    tomorrow = TEN + timedelta(days=1)
    evening.now = tomorrow
    evening.due("a", "b", at=tomorrow)
    skipped = [o for o in evening.record.occurrences().values() if o.state is OccurrenceState.SKIPPED]
    assert [(o.id, o.note) for o in skipped] == [
        ("a@2026-11-23T22:00+00:00", f"{at('a')} is still running"),
        ("b@2026-11-23T22:00+00:00", f"{at('b')} is still waiting"),
    ]
    assert any(f"{at('a')} is still running" in line for line in evening.said)
    assert list(evening.started) == [at("a")]


def test_missed_times_are_run_once_within_grace(tmp_path: Path) -> None:
    """The last one stands for all; the number is reported and recorded."""
    evening = Evening(tmp_path, a=0)
    evening.now = TEN + timedelta(seconds=600)
    evening.scheduler.decide("a", [TEN - timedelta(days=2), TEN - timedelta(days=1), TEN])
    evening.scheduler.start_next()
    assert list(evening.started) == [at("a")]
    assert evening.record.occurrences()[at("a")].stands_for == 3
    assert "2 earlier" in evening.said[0]


def test_times_found_too_late_are_not_run(tmp_path: Path) -> None:
    """It is recorded as missed, with the reason."""
    evening = Evening(tmp_path, a=0)
    evening.now = TEN + timedelta(seconds=601)
    evening.due("a")
    (missed,) = evening.record.occurrences().values()
    assert (missed.state, missed.started) == (OccurrenceState.MISSED, None)
    assert missed.note == "10 min late, misfire_grace_s is 600"
    assert not evening.started


@pytest.mark.parametrize(
    ("code", "trials", "state"),
    [
        (0, ("COMPLETE", "CACHED"), OccurrenceState.DONE),
        (0, ("CACHED", "CACHED"), OccurrenceState.NOTHING_NEW),
        (0, ("CACHED", "PRUNED"), OccurrenceState.NOTHING_NEW),
        (1, ("CACHED", "FAILED"), OccurrenceState.FAILED),
        (2, (), OccurrenceState.REFUSED),
        (130, ("WAITING",), OccurrenceState.INTERRUPTED),
        (-9, (), OccurrenceState.CRASHED),
    ],
)
def test_the_outcome_depends_on_what_was_trained(
    tmp_path: Path, code: int, trials: tuple[str, ...], state: OccurrenceState
) -> None:
    """An occurrence that found everything done says so."""
    evening = Evening(tmp_path, a=0)
    evening.record.folder.mkdir()
    evening.record.log_of(at("a")).write_text("the last word\n")
    evening.due("a")
    evening.end(at("a"), code, *trials)
    (ended,) = evening.record.occurrences().values()
    assert (ended.state, ended.exit_code, sum(ended.trials.values())) == (state, code, len(trials))
    assert evening.said[-1].startswith(f"{at('a')}: {state}")


def test_what_was_trained_before_a_kill_is_news(tmp_path: Path) -> None:
    """When an occurrence was interrupted after training, the next scheduler finds all cached; older results do not count."""
    first = Evening(tmp_path, a=0)
    first.due("a")
    for key, ended in {f"{0:016x}": TEN - timedelta(days=1), f"{1:016x}": TEN + timedelta(minutes=5)}.items():
        folder = TrialFolder(first.home.trial_folder(key))
        folder.path.mkdir(parents=True)
        folder.write_result(TrialResult(key=key, state=TrialState.COMPLETE, attempt=0, started_s=0.0, ended_s=ended.timestamp()))

    later = Evening(tmp_path, a=0)
    later.now = TEN + timedelta(hours=1)
    later.scheduler.resume()
    later.scheduler.start_next()
    later.end(at("a"), 0, "CACHED", "CACHED")
    assert later.states() == {at("a"): OccurrenceState.DONE}

    later.now = tomorrow = TEN + timedelta(days=1)
    later.due("a", at=tomorrow)
    later.end("a@2026-11-23T22:00+00:00", 0, "CACHED", "CACHED")
    assert later.states()["a@2026-11-23T22:00+00:00"] is OccurrenceState.NOTHING_NEW


def test_a_sweep_that_cannot_be_started_holds_up_no_other(tmp_path: Path) -> None:
    """It is recorded as crashed, and the next is started."""
    evening = Evening(tmp_path, a=1, b=0)
    evening.broken.add(at("a"))
    evening.due("a", "b")
    assert evening.states() == {at("a"): OccurrenceState.CRASHED, at("b"): OccurrenceState.RUNNING}


def test_a_stop_is_forwarded_and_waited_for(tmp_path: Path) -> None:
    """Nothing more is started; the next scheduler resumes what ran and what waited, under the same ids."""
    evening = Evening(tmp_path, a=1, b=0)
    evening.due("a", "b")
    evening.scheduler.stop()
    assert evening.started[at("a")].num_stops == 1
    assert not evening.scheduler.is_over
    evening.end(at("a"), 130, "WAITING")
    assert evening.scheduler.is_over
    assert evening.scheduler.exit_code == 0
    assert evening.states() == {at("a"): OccurrenceState.SUSPENDED, at("b"): OccurrenceState.WAITING}

    later = Evening(tmp_path, at_once=2, a=1, b=0)
    later.now = TEN + timedelta(days=3)
    later.scheduler.resume()
    later.scheduler.start_next()
    assert list(later.started) == [at("a"), at("b")]


def test_a_sweep_stopped_by_others_is_not_resumed(tmp_path: Path) -> None:
    """It was stopped on purpose."""
    evening = Evening(tmp_path, a=0)
    evening.due("a")
    evening.end(at("a"), 130, "WAITING")
    later = Evening(tmp_path, a=0)
    later.scheduler.resume()
    later.scheduler.start_next()
    assert not later.started


def test_a_torn_record_costs_its_last_line_only(tmp_path: Path) -> None:
    """After a kill during a write, earlier and later lines can be read."""
    evening = Evening(tmp_path, a=0)
    evening.due("a")
    lines = evening.record.folder / "occurrences.jsonl"
    lines.write_bytes(lines.read_bytes()[:-7])
    assert evening.states() == {at("a"): OccurrenceState.WAITING}
    evening.end(at("a"), 0, "COMPLETE")
    assert evening.states() == {at("a"): OccurrenceState.DONE}
