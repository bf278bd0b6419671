"""The loop that runs a sweep: propose, claim, launch, watch, tell; it is handed its search, launcher and tracker."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.dispatch.loop.attempts import Attempts, Running, Timer
from orchestrator.dispatch.loop.bookkeeping import Books
from orchestrator.dispatch.loop.endings import (
    PRUNED,
    PRUNED_BESIDE,
    RESULT_LOST,
    TAKEN_OVER,
    Ending,
    OthersResults,
    judge_exit,
    prune_attempt,
    reclaim_orphans,
)
from orchestrator.dispatch.loop.memory import Needs
from orchestrator.dispatch.loop.ports import CheckpointSource, Monitor, NoMonitor, Outcome, Search, Shared, Tracker, TrialOutcome
from orchestrator.dispatch.loop.queue import Idleness, Leaving, Queue, Step
from orchestrator.dispatch.loop.retries import Retries
from orchestrator.dispatch.loop.takeover import Layout, Takeovers
from orchestrator.errors import DataError, LaunchError, TrialError
from orchestrator.launchers.base import Launcher, SlotOwner
from orchestrator.spec.sections import KeepSpec, LimitsSpec, RetrySpec
from orchestrator.state.disk import DiskSpace, say_full
from orchestrator.state.home import Home
from orchestrator.state.ledger import Ledger, LedgerRow
from orchestrator.state.trial.failures import describe, is_disk_full
from orchestrator.state.trial.folder import TrialFolder, is_worked_on
from orchestrator.state.trial.records import Event, TrialResult, TrialSpec, TrialState

if TYPE_CHECKING:
    from orchestrator.planning.configuration import Configuration

__all__ = ["Dispatcher", "Monitor", "NoMonitor", "Outcome", "Search", "Tracker", "TrialOutcome"]

POLL_S = 0.02
"""Between two looks at the running jobs."""

RECHECK_S = 2.0
"""Between two looks at trials that somebody else is working on."""


class Dispatcher:
    """Runs one sweep to its end. Any number may run the same sweep; the ledger keeps them apart.

    ``run`` may be called once; ``request_stop`` from a signal handler or from another thread at any time.
    trials_of: a configuration's trials in the order in which they are to run. round_of: trials of a lower round go first, even
    where that means to propose further configurations before a proposed one is finished.
    data_folder_of: where a trial's prepared data lies on this machine. find_result: the result of a trial that is complete and
    has none in its folder here, from wherever else it is kept; called in the dispatcher's thread, may raise TrackingError.
    open_checkpoints: where checkpoints of other machines' attempts are kept, if they are; called in a thread of its own.
    retry, limits, keep: what the sweep file says, or its defaults. needs: what trials have taken of GPUs so far.
    leave_after_s: as of Leaving.
    """

    def __init__(
        self,
        *,
        sweep: str,
        search: Search,
        launcher: Launcher,
        tracker: Tracker,
        ledger: Ledger,
        home: Home,
        owner: str,
        trials_of: Callable[[Configuration], Sequence[TrialSpec]],
        data_folder_of: Callable[[TrialSpec], Path],
        round_of: Callable[[TrialSpec], int] = lambda _: 0,
        find_result: Callable[[TrialSpec], TrialResult | None] | None = None,
        open_checkpoints: Callable[[], CheckpointSource] | None = None,
        monitor: Monitor | None = None,
        retry: RetrySpec | None = None,
        limits: LimitsSpec | None = None,
        keep: KeepSpec | None = None,
        needs: Needs | None = None,
        leave_after_s: float | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._sweep = sweep
        self._search = search
        self._slot_owner = launcher if isinstance(launcher, SlotOwner) else None
        self._tracker = tracker
        self._ledger = ledger
        self._home = home
        self._owner = owner
        self._trials_of = trials_of
        self._clock = clock
        self._sleep = sleep
        limits = limits or LimitsSpec()
        self._disk = DiskSpace(home.trials, limits.free_disk_gb)
        shared = Shared(sweep, owner, ledger, tracker, monitor or NoMonitor(), self._disk)
        self._books = Books(shared, search, self._folder_of)
        self._attempts = Attempts(shared, launcher, on_epoch=self._report, silence_s=limits.silence_s, clock=clock)
        self._retries = Retries(retry or RetrySpec(), ledger, launcher)
        self._needs = needs or Needs()
        self._takeovers = Takeovers(open_checkpoints, ledger, home.cache / "checkpoints")
        self._layout = Layout(ledger, self._retries, self._needs, data_folder_of, limits, keep or KeepSpec(), self._takeovers)
        self._others = OthersResults(self._folder_of, find_result, clock)
        self._queue = Queue(launcher, self._needs, round_of)
        self._elsewhere: dict[str, TrialSpec] = {}
        self._recheck = Timer(RECHECK_S, clock)
        self._idleness = Idleness(clock)
        self._leaving = Leaving(leave_after_s, clock)
        self._may_propose = self._may_begin = True
        self._num_stops = 0
        self._halted: str | None = None

    def request_stop(self) -> None:
        """First call: launch nothing more, let running epochs end. Second call: kill what runs, and wait for no database."""
        self._num_stops += 1
        self._attempts.stop(force=self._num_stops > 1)
        if self._num_stops > 1:
            self._ledger.reconnection.give_up()

    def run(self) -> Outcome:
        """Run until nothing is left to do, a stop was requested, or there is no room for more.

        Raises:
            LaunchError: no worker can be started, and that repeatedly; or there was no room for a single one.
        """
        started_s = self._clock()
        try:
            self._work_off()
        except Exception as error:
            if not is_disk_full(error):
                raise
            raise LaunchError(say_full(self._home.root, describe(error))) from error
        if self._halted and not self._attempts.num_started:
            raise LaunchError(self._halted)
        return Outcome(self._books.outcomes(), self._num_stops > 0, self._clock() - started_s, self._halted)

    def _work_off(self) -> None:
        self._reclaim()
        self._search.reconcile()
        try:
            while self._is_under_way():
                has_news = self._reap()
                self._attempts.tend()
                self._search.spend(self._attempts.take_gpu_s())
                self._prune()
                has_news |= self._look_elsewhere()
                for spec in self._takeovers.take_arrived():
                    self._queue.put_first(spec)
                has_news |= self._fill()
                self._line_up()
                if not has_news:
                    self._sleep(POLL_S)
        finally:
            self._abandon()
            self._takeovers.close()
            self._search.close()

    def _line_up(self) -> None:
        """Say what is left waiting for a slot."""
        may_begin = self._may_start and self._may_begin
        needs = self._queue.list_needs(may_propose=self._may_propose) if may_begin else []
        goes_first = self._slot_owner.line_up(needs) if self._slot_owner else None
        self._idleness.look(is_idle=len(self._attempts) == 0 and bool(needs), goes_first=goes_first)

    def _prune(self) -> None:
        """End what the search has given up; what is queued of it is settled when its turn comes."""
        for key in self._books.take_given_up():
            self._attempts.prune(key)

    @property
    def _may_start(self) -> bool:
        return self._num_stops == 0 and self._halted is None

    def _is_under_way(self) -> bool:
        has_work = len(self._attempts) > 0 or (
            self._may_start and bool((self._queue and self._may_begin) or self._takeovers or self._may_propose)
        )
        waits = not has_work and self._may_start and bool(self._elsewhere)
        return not self._leaving.is_due(waits=waits) and (has_work or waits)

    def _fill(self) -> bool:
        """Start trials while slots are free; True if anything was begun or settled."""
        has_news = False
        while self._may_start and (step := self._choose_step()) is not None:
            has_news = True
            if not (self._propose() if step is Step.PROPOSE else self._start_next(step)):
                break
        return has_news

    def _choose_step(self) -> TrialSpec | Step | None:
        """What to do with a free slot; None where there is none, or nothing for it.

        With the budget of time spent what waits is left to the next run, and the search only tells what needs no training.
        """
        try:
            step = self._queue.choose(may_propose=self._may_propose)
        except LaunchError as error:  # no slot is left
            self._halted = str(error)
            return None
        if step is None or step is Step.PROPOSE:
            return step
        self._may_begin = self._may_begin and self._search.may_begin()
        if self._may_begin:
            return step
        return Step.PROPOSE if self._may_propose else None

    def _propose(self) -> bool:
        """Take the next configuration in, if there is one: what is done already is settled, the rest is queued."""
        configuration = self._search.propose()
        if configuration is None:
            self._may_propose = False
            return False
        trials = self._trials_of(configuration)
        new = self._books.take_in(configuration, trials)
        for spec, row in new:
            if row.state.has_ended:
                self._settle_others(spec, row, is_found_done=True)
            else:
                self._queue.put_last(spec)
        # A search that proposes what is under way already would do so for ever: ask again when something has ended.
        is_repetition = not new and any(not self._books.has_ended(spec) for spec in trials)
        self._may_propose = not is_repetition
        return True

    def _settle_others(self, spec: TrialSpec, row: LedgerRow, *, is_found_done: bool) -> None:
        """Settle a trial that has ended without us; where a complete one's result is left nowhere, have it run again."""
        ending = self._others.read(spec, row)
        if ending is not None:
            self._books.settle(spec, ending.found_done() if is_found_done else ending, attempts=row.attempt)
            self._may_propose = True
        elif self._others.may_come(spec):
            self._elsewhere[spec.key] = spec
        else:
            self._ledger.forget(spec.key)
            self._books.wait(spec, RESULT_LOST)
            self._queue.put_last(spec)

    def _start_next(self, spec: TrialSpec) -> bool:
        """Start a trial of the queue, if there is room for what it writes."""
        self._halted = self._disk.find_shortage(len(self._attempts))
        if self._halted is not None:
            return False
        self._queue.remove(spec)
        return self._start(spec)

    def _start(self, spec: TrialSpec) -> bool:
        """Claim a trial and launch it; False where no slot was to be had after all."""
        folder = self._folder_of(spec)
        if self._takeovers.must_wait(spec, folder):
            return True
        before = folder.find_attempt()
        last = before.number if before else 0
        attempt = None if is_worked_on(folder) else self._ledger.claim(spec.key, self._sweep, self._owner, after=last)
        if attempt is None:
            self._elsewhere[spec.key] = spec
            return True
        self._books.begin(spec, attempt)
        try:
            if (ending := self._layout.prepare(spec, folder, attempt)) is not None:
                self._finish(spec, ending)
            elif self._books.is_needless(spec):
                self._finish(spec, prune_attempt(folder, attempt, reason=PRUNED_BESIDE))
            else:
                self._attempts.start(spec, folder, attempt, need=self._needs.of(spec))
        except (TrialError, DataError) as error:
            self._finish(spec, Ending(TrialState.FAILED, reason=str(error)))
        except BaseException as error:
            self._books.take_back(spec, attempt)
            folder.restore_attempt(before)
            self._queue.put_first(spec)
            if is_disk_full(error):
                self._halted = say_full(self._home.root, describe(error))
            elif not isinstance(error, LaunchError) or self._attempts.is_hopeless(self._needs.of(spec)):
                raise
            return False
        return True

    def _reap(self) -> bool:
        """Enter how attempts ended; True if any did."""
        ended = self._attempts.reap()
        for running, exit in ended:
            if running.is_lost:
                self._give_up(running)
                continue
            known = self._attempts.circumstances_of(running, exit, was_stopped=self._num_stops > 0)
            ending = judge_exit(running.folder, running.attempt, exit, known)
            if running.is_pruned and ending.is_stopped:
                ending = prune_attempt(running.folder, running.attempt, reason=PRUNED)
            ending = self._retries.reconsider(running.spec, running.folder, ending)
            if ending.state is TrialState.WAITING:
                self._release(running.spec, ending)
            else:
                self._finish(running.spec, ending)
        return bool(ended)

    def _report(self, spec: TrialSpec, event: Event) -> None:
        self._needs.note_epoch(spec, event)
        self._books.report(spec, event)

    def _finish(self, spec: TrialSpec, ending: Ending) -> None:
        self._books.finish(spec, ending)
        self._may_propose = True

    def _release(self, spec: TrialSpec, ending: Ending) -> None:
        self._books.release(spec, ending)
        if ending.lacks_space:
            self._halted = say_full(self._home.root, f"the worker of {spec.name} could not write")
        if ending.is_elsewhere:
            self._elsewhere[spec.key] = spec
        elif ending.is_retry:
            self._layout.note_terms(spec, self._folder_of(spec))
            self._queue.put_last(spec)  # others first: what was lacking may be there later
        else:
            self._queue.put_first(spec)

    def _give_up(self, running: Running) -> None:
        """Leave a trial to the owner that took our expired claim."""
        self._books.wait(running.spec, TAKEN_OVER)
        self._elsewhere[running.spec.key] = running.spec

    def _look_elsewhere(self) -> bool:
        """See what has become of trials that others work on, and take over those of the dead; True if anything did."""
        if not self._may_start or not self._elsewhere or not self._recheck.is_due():
            return False
        if self._reclaim():
            self._search.reconcile()
        now_s = self._ledger.now_s()
        changed = {key: row for key, row in self._ledger.states(self._elsewhere, self._sweep).items() if not row.is_held(now_s)}
        for key, row in changed.items():
            spec = self._elsewhere.pop(key)
            if row.state.has_ended:
                self._settle_others(spec, row, is_found_done=False)
            else:
                self._queue.put_last(spec)
        return bool(changed)

    def _reclaim(self) -> bool:
        """Free what dead dispatchers of this machine held, in any sweep; True if there was anything."""
        orphans = list(reclaim_orphans(self._ledger, self._home))
        for sweep, folder in orphans:
            self._tracker.mirror(sweep, folder, ended=True)
        return bool(orphans)

    def _abandon(self) -> None:
        """Kill and give back what still runs; after an orderly end that is nothing."""
        if len(self._attempts):
            self._num_stops = max(self._num_stops, 2)  # that they end by our signal is no failure of theirs
        while len(self._attempts):
            self._attempts.stop(force=True)
            self._reap()
            self._sleep(POLL_S)

    def _folder_of(self, spec: TrialSpec) -> TrialFolder:
        return TrialFolder(self._home.trial_folder(spec.key))
