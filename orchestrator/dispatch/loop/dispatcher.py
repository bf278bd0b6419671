"""The loop that runs a sweep: propose, claim, launch, watch, record; it is given its search, launcher and tracker."""

import time
from collections.abc import Callable

from orchestrator.dispatch.loop.attempts import Attempts, Preparation, RunningAttempt, Timer
from orchestrator.dispatch.loop.bookkeeping import Bookkeeping
from orchestrator.dispatch.loop.memory import MemoryEstimates
from orchestrator.dispatch.loop.outcomes import PRUNED, PRUNED_BESIDE, AttemptOutcome, judge_exit, prune_attempt
from orchestrator.dispatch.loop.ports import PlannedTrial, Policy, Ports, Session, SweepOutcome
from orchestrator.dispatch.loop.queue import IdleTimeout, Queue, SlotShortage, Step
from orchestrator.dispatch.loop.retries import Retries
from orchestrator.dispatch.loop.takeover import RESULT_LOST, TAKEN_OVER, FinishedTrials, Takeovers, reclaim_orphans
from orchestrator.errors import DataError, LaunchError, TrialError
from orchestrator.launchers.base import SlotOwner
from orchestrator.state.disk import DiskSpace, say_full
from orchestrator.state.ledger import LedgerRow
from orchestrator.state.trial.failures import describe, is_disk_full
from orchestrator.state.trial.folder import is_worked_on
from orchestrator.state.trial.records import Event, TrialSpec, TrialState

POLL_S = 0.02
"""Interval between two looks at the running jobs."""

RECHECK_S = 2.0
"""Interval between two looks at the trials that other dispatchers run."""


class Dispatcher:
    """Runs one sweep to its end. Any number of dispatchers may run the same sweep; the ledger coordinates them.

    Call ``run`` once; call ``request_stop`` from a signal handler or from another thread at any time.
    memory: estimates from earlier trials.
    """

    def __init__(
        self,
        session: Session,
        ports: Ports,
        policy: Policy,
        *,
        memory: MemoryEstimates | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._session, self._ledger = session, session.ledger
        self._search, self._tracker = ports.search, ports.tracker
        self._slot_owner = ports.launcher if isinstance(ports.launcher, SlotOwner) else None
        self._clock = clock
        self._sleep = sleep
        self._memory = memory or MemoryEstimates()
        self._disk = DiskSpace(session.home.trials, policy.limits.free_disk_gb)
        self._bookkeeping = Bookkeeping(session, ports, self._disk)
        self._attempts = Attempts(
            session, ports, self._disk, on_epoch=self._record_epoch, silence_s=policy.limits.silence_s, clock=clock
        )
        self._retries = Retries(policy.retry, session.ledger, ports.launcher, self._memory)
        self._takeovers = Takeovers(session, ports.open_checkpoints)
        self._preparation = Preparation(session.ledger, self._retries, self._takeovers, policy)
        self._finished = FinishedTrials(session, ports.find_result, clock)
        self._queue = Queue(ports.launcher, self._memory)
        self._run_by_others: dict[str, PlannedTrial] = {}
        self._recheck = Timer(RECHECK_S, clock)
        self._shortage = SlotShortage(clock)
        self._idle = IdleTimeout(policy.leave_after_s, clock)
        self._may_propose = self._may_begin = True
        self._num_stops = 0
        self._halted: str | None = None

    def request_stop(self) -> None:
        """First call: launch nothing more and let running epochs end. Second call: kill what runs, and wait for no database."""
        self._num_stops += 1
        self._attempts.stop(force=self._num_stops > 1)
        if self._num_stops > 1:
            self._ledger.reconnection.give_up()

    def run(self) -> SweepOutcome:
        """Run until nothing is left to do, a stop was requested, or the disk is full.

        Raises:
            LaunchError: launches keep failing, or the disk had no room for a single trial.
        """
        started_s = self._clock()
        try:
            self._loop()
        except Exception as error:
            if not is_disk_full(error):
                raise
            raise LaunchError(say_full(self._session.home.root, describe(error))) from error
        if self._halted and not self._attempts.num_started:
            raise LaunchError(self._halted)
        return SweepOutcome(self._bookkeeping.outcomes(), self._num_stops > 0, self._clock() - started_s, self._halted)

    def _loop(self) -> None:
        self._reclaim()
        self._search.reconcile()
        try:
            while self._is_under_way():
                has_news = self._reap()
                self._attempts.tend()
                self._search.spend(self._attempts.take_gpu_s())
                for key in self._bookkeeping.take_given_up():  # queued ones are pruned when their turn comes
                    self._attempts.prune(key)
                has_news |= self._recheck_others()
                for trial in self._takeovers.take_arrived():
                    self._queue.put_first(trial)
                has_news |= self._fill()
                self._line_up()
                if not has_news:
                    self._sleep(POLL_S)
        finally:
            self._abandon()
            self._takeovers.close()
            self._search.close()

    @property
    def _may_start(self) -> bool:
        return self._num_stops == 0 and self._halted is None

    def _is_under_way(self) -> bool:
        has_work = len(self._attempts) > 0 or (
            self._may_start and bool((self._queue and self._may_begin) or self._takeovers or self._may_propose)
        )
        is_idle = not has_work and self._may_start and bool(self._run_by_others)
        return not self._idle.has_expired(is_idle=is_idle) and (has_work or is_idle)

    def _line_up(self) -> None:
        """Publish what still waits for a slot."""
        may_begin = self._may_start and self._may_begin
        needs = self._queue.list_needs(may_propose=self._may_propose) if may_begin else []
        goes_first = self._slot_owner.line_up(needs) if self._slot_owner else None
        self._shortage.update(is_starved=len(self._attempts) == 0 and bool(needs), goes_first=goes_first)

    def _fill(self) -> bool:
        """Start trials while slots are free; True if anything was started or recorded."""
        has_news = False
        while self._may_start and (step := self._choose_step()) is not None:
            has_news = True
            if not (self._propose() if step is Step.PROPOSE else self._start(step)):
                break
        return has_news

    def _choose_step(self) -> PlannedTrial | Step | None:
        """What to do with a free slot; None if there is no slot, or nothing for it.

        Once the time budget is spent, waiting trials are left to the next run, and the search proposes only finished ones.
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
        """Add the next configuration, if there is one: record its finished trials, queue the others."""
        configuration = self._search.propose()
        if configuration is None:
            self._may_propose = False
            return False
        trials = self._search.trials_of(configuration)
        new = self._bookkeeping.add_proposal(configuration, trials)
        for trial, row in new:
            if row.state.has_ended:
                self._record_finished(trial, row, is_cached=True)
            else:
                self._queue.put_last(trial)
        # A search that proposes what already runs would do so forever: ask again after a trial has ended.
        is_repetition = not new and any(not self._bookkeeping.has_ended(trial.spec) for trial in trials)
        self._may_propose = not is_repetition
        return True

    def _record_finished(self, trial: PlannedTrial, row: LedgerRow, *, is_cached: bool) -> None:
        """Record a trial that ended elsewhere; if a complete one's result is lost, run the trial again."""
        spec = trial.spec
        outcome = self._finished.read(spec, row)
        if outcome is not None:
            self._bookkeeping.record(spec, outcome.as_cached() if is_cached else outcome, attempts=row.attempt)
            self._may_propose = True
        elif self._finished.may_come(spec):
            self._run_by_others[spec.key] = trial
        else:
            self._ledger.forget(spec.key)
            self._bookkeeping.wait(spec, RESULT_LOST)
            self._queue.put_last(trial)

    def _start(self, trial: PlannedTrial) -> bool:
        """Claim a trial of the queue and launch it; False if the disk has no room for it or the slot was gone."""
        self._halted = self._disk.find_shortage(len(self._attempts))
        if self._halted is not None:
            return False
        self._queue.remove(trial)
        spec = trial.spec
        folder = self._session.folder_of(spec)
        if self._takeovers.must_wait(trial, folder):
            return True
        before = folder.find_attempt()
        last = before.number if before else 0
        is_busy = is_worked_on(folder)
        attempt = None if is_busy else self._ledger.claim(spec.key, self._session.sweep, self._session.owner, after=last)
        if attempt is None:
            self._run_by_others[spec.key] = trial
            return True
        self._bookkeeping.start(spec, attempt)
        try:
            if (outcome := self._preparation.prepare(trial, folder, attempt)) is not None:
                self._finish(spec, outcome)
            elif self._bookkeeping.is_unneeded(spec):
                self._finish(spec, prune_attempt(folder, attempt, reason=PRUNED_BESIDE))
            else:
                self._attempts.start(trial, folder, attempt, need=self._memory.of(spec))
        except (TrialError, DataError) as error:
            self._finish(spec, AttemptOutcome(TrialState.FAILED, reason=str(error)))
        except BaseException as error:
            self._bookkeeping.take_back(spec, attempt)
            folder.restore_attempt(before)
            self._queue.put_first(trial)
            if is_disk_full(error):
                self._halted = say_full(self._session.home.root, describe(error))
            elif not isinstance(error, LaunchError) or self._attempts.count_failed_launch(self._memory.of(spec)):
                raise
            return False
        return True

    def _reap(self) -> bool:
        """Record the attempts that have ended; True if there were any."""
        ended = self._attempts.reap()
        for running, exit in ended:
            spec = running.trial.spec
            if running.is_lost:  # our claim expired, and another dispatcher has it
                self._bookkeeping.wait(spec, TAKEN_OVER)
                self._run_by_others[spec.key] = running.trial
                continue
            known = self._attempts.circumstances_of(running, exit, was_stopped=self._num_stops > 0)
            outcome = judge_exit(running.folder, running.attempt, exit, known)
            if running.is_pruned and outcome.is_stopped:
                outcome = prune_attempt(running.folder, running.attempt, reason=PRUNED)
            outcome = self._retries.reconsider(spec, running.folder, outcome)
            if outcome.state is TrialState.WAITING:
                self._release(running, outcome)
            else:
                self._finish(spec, outcome)
        return bool(ended)

    def _record_epoch(self, spec: TrialSpec, event: Event) -> None:
        self._memory.record_epoch(spec, event)
        self._bookkeeping.record_epoch(spec, event)

    def _finish(self, spec: TrialSpec, outcome: AttemptOutcome) -> None:
        self._bookkeeping.finish(spec, outcome)
        self._may_propose = True

    def _release(self, running: RunningAttempt, outcome: AttemptOutcome) -> None:
        trial, spec = running.trial, running.trial.spec
        self._bookkeeping.release(spec, outcome)
        if outcome.lacks_space:
            self._halted = say_full(self._session.home.root, f"the worker of {spec.name} could not write")
        if outcome.is_others:
            self._run_by_others[spec.key] = trial
        elif outcome.is_retry:
            self._retries.set_terms(spec, running.folder)
            self._queue.put_last(trial)  # others first: what was lacking may be there later
        else:
            self._queue.put_first(trial)

    def _recheck_others(self) -> bool:
        """Look at the trials that others run, and take over those of dead dispatchers; True if any changed."""
        if not self._may_start or not self._run_by_others or not self._recheck.is_due():
            return False
        if self._reclaim():
            self._search.reconcile()
        now_s = self._ledger.now_s()
        rows = self._ledger.states(self._run_by_others, self._session.sweep)
        changed = {key: row for key, row in rows.items() if not row.is_held(now_s)}
        for key, row in changed.items():
            trial = self._run_by_others.pop(key)
            if row.state.has_ended:
                self._record_finished(trial, row, is_cached=False)
            else:
                self._queue.put_last(trial)
        return bool(changed)

    def _reclaim(self) -> bool:
        """Free what dead dispatchers of this machine held, in any sweep; True if there was anything."""
        orphans = list(reclaim_orphans(self._session))
        for sweep, folder in orphans:
            self._tracker.mirror(sweep, folder, ended=True)
        return bool(orphans)

    def _abandon(self) -> None:
        """Kill and release what still runs; after an orderly end that is nothing."""
        if len(self._attempts):
            self._num_stops = max(self._num_stops, 2)  # being killed by us is no failure
        while len(self._attempts):
            self._attempts.stop(force=True)
            self._reap()
            self._sleep(POLL_S)
