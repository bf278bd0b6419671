"""The loop that runs a sweep: propose, claim, launch, watch, tell; it is handed its search, launcher and tracker."""

from __future__ import annotations

import bisect
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.attempts import Attempts, Running, Timer
from orchestrator.errors import DataError, LaunchError, TrialError
from orchestrator.exits import RESULT_LOST, TAKEN_OVER, Ending, OthersResults, find_unentered, judge_exit, reclaim_orphans
from orchestrator.home import Home
from orchestrator.launchers.base import Launcher
from orchestrator.ledger import Ledger, LedgerRow
from orchestrator.parts import Monitor, NoMonitor, Outcome, Outcomes, Search, Tracker, TrialOutcome
from orchestrator.proposals import OBJECTIVE, Proposal, Proposals
from orchestrator.trial import Attempt, TrialFolder, TrialResult, TrialSpec, TrialState
from orchestrator.worker import is_worked_on

if TYPE_CHECKING:
    from orchestrator.configuration import Configuration

__all__ = ["Dispatcher", "Monitor", "NoMonitor", "Outcome", "Search", "Tracker", "TrialOutcome"]

POLL_S = 0.02
"""Between two looks at the running jobs."""

RECHECK_S = 2.0
"""Between two looks at trials that somebody else is working on."""

LAUNCH_TRIES = 3
"""Launches that fail in a row, with slots free, before the sweep ends."""

ENDED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAILED)


class Dispatcher:
    """Runs one sweep to its end. Any number may run the same sweep; the ledger keeps them apart.

    ``run`` may be called once; ``request_stop`` from a signal handler or from another thread at any time.
    trials_of: a configuration's trials in the order in which they are to run. round_of: trials of a lower round go first, even
    where that means to propose further configurations before a proposed one is finished.
    data_folder_of: where a trial's prepared data lies on this machine. find_result: the result of a trial that is complete and
    has none in its folder here, from wherever else it is kept; called in the dispatcher's thread, may raise TrackingError.
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
        monitor: Monitor | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._sweep = sweep
        self._search = search
        self._launcher = launcher
        self._tracker = tracker
        self._ledger = ledger
        self._home = home
        self._owner = owner
        self._trials_of = trials_of
        self._data_folder_of = data_folder_of
        self._round_of = round_of
        self._monitor = monitor or NoMonitor()
        self._clock = clock
        self._sleep = sleep
        self._attempts = Attempts(sweep=sweep, owner=owner, ledger=ledger, tracker=tracker, monitor=self._monitor, clock=clock)
        self._others = OthersResults(self._folder_of, find_result, clock)
        self._outcomes = Outcomes()
        self._proposals = Proposals()
        self._queue: deque[TrialSpec] = deque()
        self._elsewhere: dict[str, TrialSpec] = {}
        self._recheck = Timer(RECHECK_S, clock)
        self._may_propose = True
        self._num_stops = 0
        self._num_failed_launches = 0

    def request_stop(self) -> None:
        """First call: launch nothing more, let running epochs end. Second call: kill what runs."""
        self._num_stops += 1
        self._attempts.stop(force=self._num_stops > 1)

    def run(self) -> Outcome:
        """Run until nothing is left to do or a stop was requested.

        Raises:
            LaunchError: no worker can be started, and that repeatedly.
        """
        started_s = self._clock()
        self._reclaim()
        self._search.reconcile()
        try:
            while self._is_under_way():
                has_news = self._reap()
                self._attempts.tend()
                has_news |= self._look_elsewhere()
                has_news |= self._fill()
                if not has_news:
                    self._sleep(POLL_S)
        finally:
            self._abandon()
        return Outcome(self._outcomes.in_order(), self._num_stops > 0, self._clock() - started_s)

    def _is_under_way(self) -> bool:
        return len(self._attempts) > 0 or (self._num_stops == 0 and bool(self._queue or self._elsewhere or self._may_propose))

    def _fill(self) -> bool:
        """Start trials while slots are free; True if anything was begun or settled."""
        has_news = False
        while self._num_stops == 0 and (self._queue or self._may_propose) and self._launcher.free_slots() > 0:
            has_news = True
            if not (self._propose() if self._is_proposal_next() else self._start(self._queue.popleft())):
                break
        return has_news

    def _is_proposal_next(self) -> bool:
        """Whether a trial that is not known yet may have to go before the first of the queue."""
        return not self._queue or (self._may_propose and self._round_of(self._queue[0]) > 0)

    def _propose(self) -> bool:
        """Take the next configuration in, if there is one: what is done already is settled, the rest is queued."""
        configuration = self._search.propose()
        if configuration is None:
            self._may_propose = False
            return False
        trials = self._trials_of(configuration)
        new = [spec for spec in trials if spec.key not in self._outcomes]
        self._ledger.register(self._sweep, [(spec.key, configuration.id) for spec in new])
        rows = self._ledger.states([spec.key for spec in new], self._sweep)
        self._tell(self._proposals.add(configuration, [spec.key for spec in trials]))
        for spec in new:
            self._take_in(spec, rows[spec.key])
        # A search that proposes what is under way already would do so for ever: ask again when something has ended.
        is_repetition = not new and any(not self._outcomes.has_ended(spec) for spec in trials)
        self._may_propose = not is_repetition
        return True

    def _take_in(self, spec: TrialSpec, row: LedgerRow) -> None:
        self._outcomes.note(spec, TrialState.WAITING, attempts=row.attempt)
        if row.state in ENDED:
            self._settle_others(spec, row, is_found_done=True)
        else:
            bisect.insort_right(self._queue, spec, key=self._round_of)

    def _settle_others(self, spec: TrialSpec, row: LedgerRow, *, is_found_done: bool) -> None:
        """Settle a trial that has ended without us; where a complete one's result is left nowhere, have it run again."""
        ending = self._others.read(spec, row)
        if ending is not None:
            self._settle(spec, ending.found_done() if is_found_done else ending)
        elif self._others.may_come(spec):
            self._elsewhere[spec.key] = spec
        else:
            self._ledger.forget(spec.key)
            self._wait(spec, RESULT_LOST)
            bisect.insort_right(self._queue, spec, key=self._round_of)

    def _start(self, spec: TrialSpec) -> bool:
        """Claim a trial and launch it; False where no slot was to be had after all."""
        folder = self._folder_of(spec)
        attempt = None if is_worked_on(folder) else self._ledger.claim(spec.key, self._sweep, self._owner)
        if attempt is None:
            self._elsewhere[spec.key] = spec
            return True
        self._outcomes.note(spec, TrialState.RUNNING, attempts=attempt)
        try:
            self._launch(spec, folder, attempt)
        except (TrialError, DataError) as error:
            self._finish(spec, Ending(TrialState.FAILED, reason=str(error)))
        except BaseException as error:
            self._ledger.release(spec.key, self._owner)
            self._outcomes.note(spec, TrialState.WAITING)
            bisect.insort_left(self._queue, spec, key=self._round_of)
            if not isinstance(error, LaunchError) or self._is_hopeless():
                raise
            return False
        return True

    def _launch(self, spec: TrialSpec, folder: TrialFolder, attempt: int) -> None:
        folder.create(spec)
        if (ending := find_unentered(self._ledger, folder, spec.key)) is not None:
            self._finish(spec, ending)
            return
        folder.discard_result()
        folder.write_attempt(Attempt(number=attempt, data_folder=str(self._data_folder_of(spec))))
        _, offset = folder.events()
        job = self._launcher.launch(folder.path)
        self._num_failed_launches = 0
        self._attempts.add(Running(spec, attempt, folder, job, offset))
        self._monitor.started(spec, attempt)
        if self._num_stops:  # requested while it was being launched
            job.stop(force=self._num_stops > 1)

    def _is_hopeless(self) -> bool:
        """Whether launches keep failing though slots are free; where none is, another sweep was just quicker."""
        self._num_failed_launches += self._launcher.free_slots() > 0
        return self._num_failed_launches >= LAUNCH_TRIES

    def _reap(self) -> bool:
        """Enter how attempts ended; True if any did."""
        ended = self._attempts.reap()
        for running, exit in ended:
            if running.is_lost:
                self._give_up(running)
                continue
            ending = judge_exit(running.folder, running.attempt, exit, was_stopped=self._num_stops > 0)
            if ending.state is TrialState.WAITING:
                self._release(running.spec, ending)
            else:
                self._finish(running.spec, ending)
        return bool(ended)

    def _finish(self, spec: TrialSpec, ending: Ending) -> None:
        """Enter in the ledger how a trial of ours ended, and settle it."""
        state = TrialState.COMPLETE if ending.state is TrialState.CACHED else ending.state
        self._ledger.finish(spec.key, self._owner, state, ending.reason)
        self._settle(spec, ending)

    def _settle(self, spec: TrialSpec, ending: Ending) -> None:
        """Tell everybody how a trial ended, whoever ran it."""
        self._outcomes.note(spec, ending.state, result=ending.result, reason=ending.reason)
        self._mirror_end(spec, ending)
        self._monitor.ended(spec, ending.state, ending.result, ending.reason)
        value = ending.result.metrics.get(OBJECTIVE) if ending.result else None
        self._tell(self._proposals.end(spec.key, ending.state, value))
        self._may_propose = True

    def _release(self, spec: TrialSpec, ending: Ending) -> None:
        """Give a trial back that can be gone on with: by us, by whoever works on it, or after a stop by the next run."""
        self._ledger.release(spec.key, self._owner)
        self._mirror_end(spec, ending)
        self._wait(spec, ending.reason)
        if ending.is_elsewhere:
            self._elsewhere[spec.key] = spec
        elif self._num_stops == 0:
            bisect.insort_left(self._queue, spec, key=self._round_of)

    def _give_up(self, running: Running) -> None:
        """Leave a trial to the owner that took our expired claim."""
        self._wait(running.spec, TAKEN_OVER)
        self._elsewhere[running.spec.key] = running.spec

    def _wait(self, spec: TrialSpec, reason: str | None) -> None:
        """Show that a trial is not done, and why."""
        self._outcomes.note(spec, TrialState.WAITING, reason=reason)
        self._monitor.ended(spec, TrialState.WAITING, None, reason)

    def _tell(self, ready: Iterable[Proposal]) -> None:
        for proposal in ready:
            self._search.tell(proposal.configuration, *self._proposals.value_of(proposal))

    def _look_elsewhere(self) -> bool:
        """See what has become of trials that others work on, and take over those of the dead; True if anything did."""
        if self._num_stops or not self._elsewhere or not self._recheck.is_due():
            return False
        self._reclaim()
        now_s = self._ledger.now_s()
        changed = {key: row for key, row in self._ledger.states(self._elsewhere, self._sweep).items() if not row.is_held(now_s)}
        for key, row in changed.items():
            spec = self._elsewhere.pop(key)
            if row.state in ENDED:
                self._settle_others(spec, row, is_found_done=False)
            else:
                bisect.insort_right(self._queue, spec, key=self._round_of)
        return bool(changed)

    def _reclaim(self) -> None:
        """Free what dead dispatchers of this machine held, in any sweep."""
        for sweep, folder in reclaim_orphans(self._ledger, self._home):
            self._tracker.mirror(sweep, folder, ended=True)

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

    def _mirror_end(self, spec: TrialSpec, ending: Ending) -> None:
        if ending.has_record:
            self._tracker.mirror(self._sweep, self._folder_of(spec), ended=True)
