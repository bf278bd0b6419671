"""`orchestrate schedule`: reads the files, locks the home, and runs clock and scheduler until it is stopped."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from queue import SimpleQueue

from orchestrator.errors import ScheduleError, SpecError
from orchestrator.operations.schedule.clock import Clock
from orchestrator.operations.schedule.record import Occurrence, ScheduleRecord, WatchedSweep
from orchestrator.operations.schedule.scheduler import Call, ScheduledSweep, Scheduler
from orchestrator.spec import load_spec
from orchestrator.state.files import holding
from orchestrator.state.home import Home

LOCK = "schedule.lock"
"""In the home's folder of locks; the scheduler holds it."""


def load_scheduled(files: Sequence[Path]) -> list[ScheduledSweep]:
    """Read the sweep files to be scheduled.

    Raises:
        SpecError: a file is wrong, has no schedule, or has the same name as another.
    """
    sweeps: dict[str, ScheduledSweep] = {}
    for file in files:
        spec = load_spec(file)
        if spec.is_open_ended or spec.pruner:
            from orchestrator.search import check_search  # imports optuna, which takes a second

            check_search(spec)
        if spec.schedule is None:
            raise SpecError(f'{file}: has no schedule. Add a cron line, such as schedule: "0 22 * * 1-5".')
        if (other := sweeps.get(spec.name)) is not None:
            raise SpecError(f"{other.file} and {file}: both are named {spec.name!r}. Give each its own 'name'.")
        sweeps[spec.name] = ScheduledSweep(spec.name, file.absolute(), spec.schedule, spec.priority)
    return list(sweeps.values())


class SweepProcess:
    """A sweep's process in a session of its own: only the scheduler receives Ctrl-C, and forwards it.

    on_end: called in a separate thread with the exit code, which is negative after a signal.
    """

    def __init__(self, id: str, command: Sequence[str], record: ScheduleRecord, on_end: Callable[[int], None]) -> None:
        record.folder.mkdir(parents=True, exist_ok=True)
        with open(record.document_of(id), "wb") as document, open(record.log_of(id), "ab") as log:
            self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=document, stderr=log, start_new_session=True)
        threading.Thread(target=self._wait, args=(on_end,), name=f"wait for {id}", daemon=True).start()

    def stop(self) -> None:
        """Ask for a graceful stop; a second call asks for an immediate one."""
        self._process.send_signal(signal.SIGINT)

    def _wait(self, on_end: Callable[[int], None]) -> None:
        code = self._process.wait()
        if self._process.stdin is not None:
            self._process.stdin.close()
        on_end(code)


def run_schedule(sweeps: Sequence[ScheduledSweep], home: Home, *, at_once: int) -> int:
    """Run sweeps by their cron lines until SIGINT or SIGTERM; returns the exit code.

    at_once: how many sweeps may run in parallel.

    Raises:
        ScheduleError: another scheduler runs in this home.
    """
    record = ScheduleRecord(home.schedule)
    inbox: SimpleQueue[Call] = SimpleQueue()

    def launch(occurrence: Occurrence, sweep: ScheduledSweep) -> SweepProcess:
        again = ["--again", occurrence.id] if sweep.schedule.again else []
        scheduled = [str(os.getpid()), "sweep", str(sweep.file), "--json", *again]  # which ends with this process
        command = [sys.executable, "-m", "orchestrator.cli.scheduled", *scheduled]
        return SweepProcess(occurrence.id, command, record, lambda code: inbox.put(partial(scheduler.end, occurrence.id, code)))

    scheduler = Scheduler(sweeps, record, home, at_once=at_once, launch=launch, say=_say, now=_now)
    clock = Clock(lambda name, times: inbox.put(partial(scheduler.decide, name, times)))
    home.locks.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        if not stack.enter_context(holding(home.locks / LOCK)):
            raise ScheduleError(
                f"{home.root}: another `orchestrate schedule` is running here. Stop it and pass all files to one, "
                "or give this one its own ORCHESTRATE_HOME."
            )
        stack.enter_context(_on_signals(lambda: inbox.put(scheduler.stop)))  # the only queue that a signal handler may put to
        stack.enter_context(closing(clock))
        scheduler.resume()
        for name, watch in _watch(sweeps, record).items():
            handled = [occurrence.planned for occurrence in record.occurrences().values() if occurrence.sweep == name]
            clock.watch(name, watch.cron, watch.timezone, since=max([watch.since, *handled]))
        for sweep in sweeps:
            zone = f" ({sweep.schedule.timezone})" if sweep.schedule.timezone else ""
            _say(f"{sweep.name}: {sweep.schedule.cron}{zone}")
        clock.start()
        scheduler.run(inbox)
    return scheduler.exit_code


def _watch(sweeps: Sequence[ScheduledSweep], record: ScheduleRecord) -> dict[str, WatchedSweep]:
    """Save and return what is watched from now on; an unchanged cron line keeps its ``since``."""
    before, watched = record.watched(), {}
    for sweep in sweeps:
        new = WatchedSweep(file=str(sweep.file), cron=sweep.schedule.cron, timezone=sweep.schedule.timezone, since=_now())
        old = before.get(sweep.name)
        watched[sweep.name] = old if old is not None and old.model_copy(update={"since": new.since}) == new else new
    record.watch(watched)
    return watched


@contextmanager
def _on_signals(call: Call) -> Iterator[None]:
    """Make this call on SIGINT and SIGTERM."""
    before = {number: signal.signal(number, lambda *_: call()) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _now() -> datetime:
    return datetime.now(UTC).astimezone()


def _say(text: str) -> None:
    print(f"{_now():%Y-%m-%d %H:%M:%S} {text}", file=sys.stderr, flush=True)
