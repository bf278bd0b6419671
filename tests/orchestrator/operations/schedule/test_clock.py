"""Cron lines with APScheduler, interpreted as by crontab(5)."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from queue import SimpleQueue
from zoneinfo import ZoneInfo

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from orchestrator.errors import SpecError
from orchestrator.operations.schedule.clock import Clock, next_times
from orchestrator.spec import SweepSpec, load_spec
from orchestrator.spec.cron import check_line

ROME = "Europe/Rome"


def times(line: str, since: str, *, count: int = 4) -> list[str]:
    """When a line is due in Rome."""
    start = datetime.fromisoformat(since).replace(tzinfo=ZoneInfo(ROME))
    return [f"{time:%a} {time.isoformat(timespec='minutes')}" for time in next_times(line, ROME, since=start, count=count)]


@pytest.mark.parametrize(
    ("weekdays", "expected"),
    [
        ("1-5", ["Mon", "Tue", "Wed", "Thu", "Fri", "Mon"]),
        ("0,6", ["Sun", "Sat", "Sun", "Sat", "Sun", "Sat"]),
        ("5-7", ["Sun", "Fri", "Sat", "Sun", "Fri", "Sat"]),
        ("*/2", ["Sun", "Tue", "Thu", "Sat", "Sun", "Tue"]),
        ("Mon,wed", ["Mon", "Wed", "Mon", "Wed", "Mon", "Wed"]),
    ],
)
def test_weekdays_are_those_of_cron(weekdays: str, expected: list[str]) -> None:
    """0 and 7 are Sunday, though APScheduler counts from Monday."""
    assert [time[:3] for time in times(f"0 22 * * {weekdays}", "2026-11-22T00:00", count=6)] == expected


def test_day_and_weekday_are_alternatives() -> None:
    """As in cron: the 13th and every Friday; with a leading star both must match."""
    assert times("0 0 13 * 5", "2026-12-01T00:00") == [
        "Fri 2026-12-04T00:00+01:00",
        "Fri 2026-12-11T00:00+01:00",
        "Sun 2026-12-13T00:00+01:00",
        "Fri 2026-12-18T00:00+01:00",
    ]
    assert times("0 0 */2 * 5", "2026-12-01T00:00", count=2) == ["Fri 2026-12-11T00:00+01:00", "Fri 2026-12-25T00:00+01:00"]


def test_a_night_of_25_hours_has_one_occurrence() -> None:
    """Clocks that are set back show 02:30 twice; an hourly line is due both times."""
    assert times("30 2 * * *", "2026-10-24T12:00", count=2) == ["Sun 2026-10-25T02:30+02:00", "Mon 2026-10-26T02:30+01:00"]
    hourly = times("0 * * * *", "2026-10-25T01:30", count=3)
    assert hourly == ["Sun 2026-10-25T02:00+02:00", "Sun 2026-10-25T02:00+01:00", "Sun 2026-10-25T03:00+01:00"]


def test_a_night_of_23_hours_loses_none() -> None:
    """If 02:30 is skipped, it is the same instant as 03:30."""
    assert times("30 2 * * *", "2027-03-27T12:00", count=2) == ["Sun 2027-03-28T03:30+02:00", "Mon 2027-03-29T02:30+02:00"]


def test_the_clock_reports_missed_times_at_once() -> None:
    """All of it in one message, in order, without times already handled."""
    told: SimpleQueue[tuple[str, list[datetime]]] = SimpleQueue()
    clock = Clock(lambda name, times: told.put((name, list(times))))
    last = datetime.now(UTC).replace(second=0, microsecond=0)
    clock.watch("a", "* * * * *", "UTC", since=last - timedelta(minutes=3))
    try:
        clock.start()
        name, found = told.get(timeout=10)
    finally:
        clock.close()
    assert name == "a"
    assert found[:3] == [last - timedelta(minutes=2), last - timedelta(minutes=1), last]


def fields(low: int, high: int) -> st.SearchStrategy[str]:
    """A field of a crontab line: stars, numbers, ranges, steps and lists of them, in and out of bounds."""
    number = st.integers(low - 1, high + 2).map(str)
    span = st.tuples(number, number).map("-".join)
    part = st.one_of(st.just("*"), number, span, st.tuples(st.one_of(st.just("*"), span), number).map("/".join))
    return st.lists(part, min_size=1, max_size=3).map(",".join)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # on a busy machine
@given(st.tuples(fields(0, 59), fields(0, 23), fields(1, 31), fields(1, 12), fields(0, 7)).map(" ".join))
@example("0 0 29 2 1")
@example("0 0 31 2,4,6,9,11 *")
@example("0 0 30 2 5")
def test_every_line_that_a_sweep_file_allows_comes_due(line: str) -> None:
    """The check of a sweep file knows no APScheduler; whatever it lets through, APScheduler takes, and finds a time for it."""
    try:
        check_line(line)
    except ValueError:
        return
    assert len(next_times(line, ROME, since=datetime(2026, 11, 29, tzinfo=ZoneInfo(ROME)), count=1)) == 1


# ------------------------------------------------------------------------------------------ in a file


def load(folder: Path, schedule: str) -> SweepSpec:
    """A file with this schedule."""
    path = folder / "nightly.yaml"
    path.write_text(f"base: {{epochs: 1}}\nschedule: {schedule}\n")
    return load_spec(path)


def test_a_line_alone_is_a_schedule(tmp_path: Path) -> None:
    """It means the same as a mapping with defaults."""
    assert load(tmp_path, '"0 22  * * 1-5"').schedule == load(tmp_path, '{cron: "0 22 * * 1-5", misfire_grace_s: 3600}').schedule


@pytest.mark.parametrize(
    ("schedule", "said"),
    [
        (
            '"0 25 * * *"',
            r"nightly.yaml:2: schedule is '0 25 \* \* \*', not a crontab line: its hour has '25', which is not a number from "
            "0 to 23",
        ),
        ('{cron: "0 22 * *"}', r"schedule.cron is .*: it has 4 fields, not five. Allowed: minute hour day month weekday"),
        ('{cron: "0 0 30 2 *"}', "schedule.cron is .*: no date ever matches it"),
        ('{cron: "0 0 * * 8"}', "its weekday has '8', which is not a number from 0 to 7, or sun, mon"),
        ('{cron: "5/15 * * * *"}', "its minute is '5/15': a step needs a range, such as 5-59/15"),
        ('{cron: "0 0 last * *"}', "its day has 'last', which is not a number from 1 to 31"),
        ('{cron: "0 0 * * *", timezone: Europe/Roma}', "schedule.timezone is 'Europe/Roma', .*Did you mean 'Europe/Rome'"),
        ('{cron: "0 0 * * *", timezone: Rome}', "Did you mean 'Europe/Rome'"),
        ('{cron: "0 0 * * *", timezne: UTC}', "schedule.timezne: not a known field.*Did you mean 'timezone'"),
        (
            '{cron: "0 0 * * *", priority: 3}',
            "schedule has a priority, which is a top-level key now",
        ),
        ('{cron: "0 0 * * *", misfire_grace_s: 0}', "schedule.misfire_grace_s is 0. Allowed: at least 1"),
        ("{timezone: UTC}", "schedule.cron is missing"),
        ("{name: cosine}", "Did you mean 'base.schedule'"),
        ("22", "schedule is 22. Allowed: minute hour day month weekday"),
    ],
)
def test_a_wrong_schedule_is_reported(tmp_path: Path, schedule: str, said: str) -> None:
    """With line, position, the reason, and what is allowed."""
    with pytest.raises(SpecError, match=said):
        load(tmp_path, schedule)
