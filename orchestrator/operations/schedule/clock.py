"""Reports which cron lines are due, using APScheduler in its own thread. Nothing else imports apscheduler."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

from apscheduler.events import EVENT_JOB_SUBMITTED, JobSubmissionEvent
from apscheduler.schedulers.background import BackgroundScheduler
from apscheduler.triggers.base import BaseTrigger
from apscheduler.triggers.combining import OrTrigger
from apscheduler.triggers.cron import CronTrigger

from orchestrator.spec.cron import WEEKDAYS, CronLine, parse_line


def next_times(text: str, zone: str | None, *, since: datetime, count: int) -> list[datetime]:
    """The next times after ``since`` at which a line is due. zone: its name; None: this machine's."""
    line = parse_line(text)
    trigger, times = _make_trigger(line, zone), list[datetime]()
    while len(times) < count and (time := trigger.get_next_fire_time(since, since)) is not None:
        since = _normal(time)
        if not _is_repeated(since, line):
            times.append(since)
    return times


class Clock:
    """Watches lines and reports due times, including missed ones. Must be closed.

    on_due: called in the clock's thread with a name and the times that have come since its last call, in order.

    APScheduler would silently skip late or repeated times. So it gets no time limit and an empty task: only the times are used.
    """

    def __init__(self, on_due: Callable[[str, Sequence[datetime]], None]) -> None:
        self._on_due = on_due
        self._lines: dict[str, CronLine] = {}
        self._scheduler = BackgroundScheduler(
            timezone=UTC, job_defaults={"coalesce": False, "misfire_grace_time": None, "max_instances": 2**31}
        )
        self._scheduler.add_listener(self._report, EVENT_JOB_SUBMITTED)

    def watch(self, name: str, text: str, zone: str | None, *, since: datetime) -> None:
        """Report from now on when a line is due; times after ``since`` that have passed are reported at once."""
        self._lines[name] = line = parse_line(text)
        trigger = _make_trigger(line, zone)
        first = trigger.get_next_fire_time(since, since)
        self._scheduler.add_job(lambda: None, trigger, id=name, next_run_time=first)

    def start(self) -> None:
        self._scheduler.start()

    def close(self) -> None:
        """Stop reporting."""
        if self._scheduler.running:
            self._scheduler.shutdown(wait=False)

    def _report(self, event: JobSubmissionEvent) -> None:
        line = self._lines[event.job_id]
        times = [time for time in map(_normal, event.scheduled_run_times) if not _is_repeated(time, line)]
        if times:
            self._on_due(event.job_id, times)


def _make_trigger(line: CronLine, zone: str | None) -> BaseTrigger:
    """APScheduler counts weekdays from Monday, requires day and weekday both to match, and refuses some of cron's steps."""
    minute, hour, day, month = (",".join(map(str, sorted(f.values))) for f in (line.minute, line.hour, line.day, line.month))
    weekday = ",".join(WEEKDAYS[number] for number in sorted(line.weekday.values))
    timezone = None if zone is None else ZoneInfo(zone)

    def build(day: str, weekday: str) -> CronTrigger:
        return CronTrigger(minute=minute, hour=hour, day=day, month=month, day_of_week=weekday, timezone=timezone)

    if line.takes_either_day:
        return OrTrigger([build(day, "*"), build("*", weekday)])
    return build(day, weekday)


def _is_repeated(time: datetime, line: CronLine) -> bool:
    """Whether a fixed hour comes a second time because clocks were set back; a line for every hour still counts."""
    return bool(time.fold) and not line.hour.is_open


def _normal(time: datetime) -> datetime:
    """The same instant as clocks show it; APScheduler also gives skipped times and wrong folds."""
    return time.astimezone(UTC).astimezone(time.tzinfo)
