"""Decides what happens to each due time: one thread makes the calls of an inbox, starts sweeps and writes the record."""

import signal
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, Protocol

from orchestrator.operations.schedule.record import Occurrence, OccurrenceState, ScheduleRecord, name_occurrence
from orchestrator.spec.sections import ScheduleSpec
from orchestrator.state.home import Home
from orchestrator.state.trial.folder import TrialFolder
from orchestrator.state.trial.records import TrialState
from orchestrator.state.units import format_duration


@dataclass(frozen=True)
class ScheduledSweep:
    """A sweep file to be run by its cron line."""

    name: str
    file: Path
    schedule: ScheduleSpec
    priority: int = 0


class RunningSweep(Protocol):
    """A running sweep; its end is reported by ``Scheduler.end``."""

    def stop(self) -> None:
        """Ask for a graceful stop; a second call asks for an immediate one."""


Call = Callable[[], None]
"""Of ``Scheduler.decide``, ``end`` or ``stop``, put into the inbox by other threads and signal handlers."""

TOGETHER_S = 0.2
"""Sweeps due at the same minute are reported one by one; after such a pause all of them have been reported."""

OUTCOMES = {0: OccurrenceState.DONE, 1: OccurrenceState.FAILED, 2: OccurrenceState.REFUSED, 130: OccurrenceState.INTERRUPTED}
"""Exit code of `orchestrate sweep` -> state; all others mean a crash."""


class Scheduler:
    """Runs due sweeps, at most ``at_once`` in parallel, higher priorities first, and each only once at a time. For one thread.

    launch: starts an occurrence's sweep. say: prints for people. now: the present, with a zone.
    """

    def __init__(
        self,
        sweeps: Iterable[ScheduledSweep],
        record: ScheduleRecord,
        home: Home,
        *,
        at_once: int,
        launch: Callable[[Occurrence, ScheduledSweep], RunningSweep],
        say: Callable[[str], None],
        now: Callable[[], datetime],
    ) -> None:
        self._sweeps: Mapping[str, ScheduledSweep] = {sweep.name: sweep for sweep in sweeps}
        self._record, self._home, self._at_once = record, home, at_once
        self._launch, self._say, self._now = launch, say, now
        self._waiting: list[Occurrence] = []
        self._running: dict[str, tuple[Occurrence, RunningSweep]] = {}
        self._num_stops = 0

    @property
    def is_over(self) -> bool:
        """Whether it was stopped and nothing is running any more."""
        return self._num_stops > 0 and not self._running

    @property
    def exit_code(self) -> int:
        """0 if running sweeps could stop gracefully, 130 if they were stopped at once. A scheduler ends only when stopped."""
        return 0 if self._num_stops < 2 else 130

    def resume(self) -> None:
        """Resume what an earlier scheduler left waiting, running or suspended."""
        for left in self._record.occurrences().values():
            if left.state.is_open and left.sweep in self._sweeps:
                self._enqueue(left, f"{left.id}: was {left.state} when the scheduler ended, and is resumed")

    def run(self, inbox: SimpleQueue[Call]) -> None:
        """Make the calls that arrive in ``inbox`` until it is over."""
        while True:
            with suppress(Empty):
                while True:
                    inbox.get(timeout=TOGETHER_S)()
            self.start_next()
            if self.is_over:
                return
            inbox.get()()

    def start_next(self) -> None:
        """Start waiting occurrences while fewer than ``at_once`` run."""
        while self._waiting and len(self._running) < self._at_once and not self._num_stops:
            waiting = self._waiting.pop(0)
            occurrence = waiting.model_copy(update={"state": OccurrenceState.RUNNING, "started": waiting.started or self._now()})
            self._record.write(occurrence)
            try:
                running = self._launch(occurrence, self._sweeps[occurrence.sweep])
            except OSError as error:
                self._close(occurrence, OccurrenceState.CRASHED, note=f"could not be started: {error}")
                continue
            self._running[occurrence.id] = occurrence, running
            self._say(f"{occurrence.id}: started; log: {self._record.log_of(occurrence.id)}")

    def decide(self, name: str, times: Sequence[datetime]) -> None:
        """Decide about times of a sweep that have come, in order; several if no scheduler was running.

        The last of them stands for all. It is run unless it is too late or its predecessor has not ended.
        """
        sweep = self._sweeps[name]
        occurrence = Occurrence(
            id=name_occurrence(sweep.name, times[-1]),
            sweep=sweep.name,
            file=str(sweep.file),
            planned=times[-1],
            state=OccurrenceState.WAITING,
            stands_for=len(times),
        )
        late, grace_s = self._now() - times[-1], sweep.schedule.misfire_grace_s
        unfinished = [*self._waiting, *(running for running, _ in self._running.values())]
        before = next((one for one in unfinished if one.sweep == sweep.name), None)
        together = f"; includes {len(times) - 1} earlier times that passed while no scheduler ran" if len(times) > 1 else ""
        if late > timedelta(seconds=grace_s):
            note = f"{format_duration(late.total_seconds())} late, misfire_grace_s is {grace_s:g}{together}"
            self._close(occurrence, OccurrenceState.MISSED, note=note)
        elif before is not None:
            verb = "is still running" if before.id in self._running else "is still waiting"
            self._close(occurrence, OccurrenceState.SKIPPED, note=f"{before.id} {verb}{together}")
        else:
            self._enqueue(occurrence, f"{occurrence.id}: due{together}")

    def _enqueue(self, occurrence: Occurrence, said: str) -> None:
        waiting = occurrence.model_copy(update={"state": OccurrenceState.WAITING, "ended": None, "exit_code": None, "note": None})
        self._waiting.append(waiting)
        self._waiting.sort(key=lambda o: -self._sweeps[o.sweep].priority)  # stable: first come, first served
        self._record.write(waiting)
        is_full = len(self._running) >= self._at_once
        self._say(f"{said}; waits for {', '.join(self._running)}" if is_full else said)

    def end(self, id: str, exit_code: int) -> None:
        """Record the end of an occurrence's process; exit_code: negative after a signal."""
        occurrence, _ = self._running.pop(id)
        trials = self._record.read_trials(id)
        state = OUTCOMES.get(exit_code, OccurrenceState.CRASHED)
        note = None
        if self._num_stops and (state is OccurrenceState.INTERRUPTED or exit_code == -signal.SIGINT):
            state, note = OccurrenceState.SUSPENDED, "the scheduler was stopped; the next one resumes it"
        elif state is OccurrenceState.DONE and not self._has_news(occurrence, trials):
            state, note = OccurrenceState.NOTHING_NEW, "file and data are unchanged since an earlier run: nothing was trained"
        elif state in (OccurrenceState.REFUSED, OccurrenceState.CRASHED):
            lines = self._record.log_of(id).read_text(encoding="utf-8", errors="replace").split("\n")
            note = next((line.strip()[:500] for line in reversed(lines) if line.strip()), None)  # the last line it printed
        counts = dict(Counter(str(trial["state"]) for trial in trials))
        self._close(occurrence.model_copy(update={"exit_code": exit_code, "trials": counts}), state, note=note)

    def _has_news(self, occurrence: Occurrence, trials: Sequence[Mapping[str, Any]]) -> bool:
        """Whether anything was trained since the occurrence first started."""
        started_s = occurrence.started.timestamp() if occurrence.started else 0.0
        results = (TrialFolder(self._home.trial_folder(trial["key"])).result() for trial in trials)
        return any(trial["state"] == TrialState.COMPLETE for trial in trials) or any(
            result is not None and result.ended_s >= started_s for result in results
        )

    def _close(self, occurrence: Occurrence, state: OccurrenceState, *, note: str | None) -> None:
        self._record.write(occurrence.model_copy(update={"state": state, "ended": self._now(), "note": note}))
        counted = ", ".join(f"{number} {kind.lower()}" for kind, number in occurrence.trials.items())
        self._say(f"{occurrence.id}: {state}" + "".join(f": {text}" for text in (counted, note) if text))

    def stop(self) -> None:
        """Stop running sweeps and start no more; a second call stops them at once."""
        self._num_stops += 1
        for occurrence, running in self._running.values():
            running.stop()
            how = "running epochs are finished and kept; stop again to stop at once" if self._num_stops == 1 else "at once"
            self._say(f"{occurrence.id}: stopping: {how}")
