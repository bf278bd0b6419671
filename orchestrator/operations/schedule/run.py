"""`orchestrate schedule`: reads the files, keeps other schedulers out, and lets clock and scheduler work until it is stopped."""

from __future__ import annotations

import signal
import sys
import types
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from queue import SimpleQueue

from filelock import FileLock, Timeout

from orchestrator.errors import ScheduleError, SpecError
from orchestrator.operations.schedule.clock import Clock
from orchestrator.operations.schedule.launch import RunningSweep, sweep_command
from orchestrator.operations.schedule.record import Occurrence, ScheduleRecord, Watch
from orchestrator.operations.schedule.scheduler import Due, Ended, Message, ScheduledSweep, Scheduler, Stop
from orchestrator.spec import load_spec
from orchestrator.state.home import Home


def load_scheduled(files: Sequence[Path]) -> list[ScheduledSweep]:
    """Read the sweep files that are to be run by their lines.

    Raises:
        SpecError: a file is wrong, has no schedule, or has another's name.
    """
    sweeps: dict[str, ScheduledSweep] = {}
    for file in files:
        spec = load_spec(file)
        if spec.is_open_ended or spec.pruner:
            from orchestrator.search import check_search  # imports optuna, which takes a second

            check_search(spec)
        if spec.schedule is None:
            raise SpecError(f'{file}: has no schedule. Add a line as in a crontab, such as schedule: "0 22 * * 1-5".')
        if (other := sweeps.get(spec.name)) is not None:
            raise SpecError(f"{other.file} and {file}: both are named {spec.name!r}. Give each a 'name' of its own.")
        sweeps[spec.name] = ScheduledSweep(spec.name, file.absolute(), spec.schedule, spec.priority)
    return list(sweeps.values())


def run_schedule(sweeps: Sequence[ScheduledSweep], home: Home, *, at_once: int) -> int:
    """Run sweeps by their lines until SIGINT or SIGTERM; returns the exit code.

    Raises:
        ScheduleError: another scheduler works in this home.
    """
    record = ScheduleRecord(home.schedule)
    inbox: SimpleQueue[Message] = SimpleQueue()
    scheduler = Scheduler(
        sweeps,
        record,
        home,
        at_once=at_once,
        launch=lambda occurrence, sweep: _launch(occurrence, sweep, record, inbox),
        say=_say,
        now=_now,
    )
    with _alone(home), _stopping(inbox), closing(Clock(lambda name, times: inbox.put(Due(name, times)))) as clock:
        scheduler.take_up()
        for name, watch in _watch(sweeps, record).items():
            clock.watch(name, watch.cron, watch.timezone, since=_last_seen(watch, name, record))
        for sweep in sweeps:
            _say(f"{sweep.name}: {describe_line(sweep)}")
        clock.start()
        scheduler.run(inbox)
    return scheduler.exit_code


def describe_line(sweep: ScheduledSweep) -> str:
    """The line and its zone, for people."""
    return sweep.schedule.cron + (f" ({sweep.schedule.timezone})" if sweep.schedule.timezone else "")


def _launch(occurrence: Occurrence, sweep: ScheduledSweep, record: ScheduleRecord, inbox: SimpleQueue[Message]) -> RunningSweep:
    command = sweep_command(sweep.file, occurrence.id if sweep.schedule.again else None)
    return RunningSweep(occurrence, command, record, lambda id, code: inbox.put(Ended(id, code)))


def _watch(sweeps: Sequence[ScheduledSweep], record: ScheduleRecord) -> dict[str, Watch]:
    """What is watched from now on; a line counts since it was first watched as it is now."""
    before, watched = record.watched(), {}
    for sweep in sweeps:
        new = Watch(file=str(sweep.file), cron=sweep.schedule.cron, timezone=sweep.schedule.timezone, since=_now())
        old = before.get(sweep.name)
        watched[sweep.name] = old if old is not None and old.model_copy(update={"since": new.since}) == new else new
    record.watch(watched)
    return watched


def _last_seen(watch: Watch, name: str, record: ScheduleRecord) -> datetime:
    """Up to when the line has been answered for."""
    return max([watch.since, *(o.planned for o in record.occurrences().values() if o.sweep == name)])


@contextmanager
def _alone(home: Home) -> Iterator[None]:
    """Two schedulers would run every occurrence twice."""
    lock = scheduler_lock(home)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        raise ScheduleError(
            f"{home.root}: another `orchestrate schedule` works here. Stop it and name all files to one, "
            "or give this one a home of its own: ORCHESTRATE_HOME."
        ) from None
    try:
        yield
    finally:
        lock.release()


def scheduler_lock(home: Home) -> FileLock:
    """Held by the scheduler of a home."""
    home.locks.mkdir(parents=True, exist_ok=True)
    return FileLock(home.locks / "schedule.lock", thread_local=False)


@contextmanager
def _stopping(inbox: SimpleQueue[Message]) -> Iterator[None]:
    """Turn SIGINT and SIGTERM into messages."""

    def stop(_number: int, _frame: types.FrameType | None) -> None:
        inbox.put(Stop())  # of all queues this one may be put to within a signal's handler

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _now() -> datetime:
    return datetime.now(UTC).astimezone()


def _say(text: str) -> None:
    print(f"{_now():%Y-%m-%d %H:%M:%S} {text}", file=sys.stderr, flush=True)
