"""Decides whether a failed trial is retried and on which terms, from its folder and the sweep's retry policy."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from orchestrator.dispatch.loop.memory import MemoryEstimates, Terms
from orchestrator.dispatch.loop.outcomes import AttemptOutcome
from orchestrator.errors import LaunchError
from orchestrator.launchers.base import ANY, Launcher, MemoryEstimate, SlotOwner
from orchestrator.spec.sections import RetrySpec
from orchestrator.state.ledger import Ledger
from orchestrator.state.trial.failures import FailureKind
from orchestrator.state.trial.folder import TrialFolder
from orchestrator.state.trial.records import Event, TrialSpec, TrialState

MIN_IMAGES = 2
"""In each part of a batch; batch norm may need them."""

Fits = Callable[[MemoryEstimate], bool]
"""Whether some slot of this machine is known to be large enough."""


@dataclass(frozen=True)
class Failure:
    """How an attempt failed. epoch: the running one, if the first was done. memory_mb: its share of the GPU, if known."""

    attempt: int
    kind: FailureKind
    epoch: int | None = None
    memory_mb: int | None = None


def _fits_nowhere(_need: MemoryEstimate) -> bool:
    return False


class Retries:
    """Decides from the trial folder alone, so that every dispatcher decides the same.

    Only failures after the last outcome in the ledger count: after ``orchestrate retry`` a trial starts afresh. A trial that ran
    out of GPU memory first gets a larger slot, if this machine has one, and then a smaller batch. A trial whose last GPU broke
    waits.
    """

    def __init__(self, policy: RetrySpec, ledger: Ledger, launcher: Launcher, memory: MemoryEstimates) -> None:
        self._policy = policy
        self._ledger = ledger
        self._launcher = launcher
        self._memory = memory
        self._fits: Fits = launcher.fits if isinstance(launcher, SlotOwner) else _fits_nowhere

    def reconsider(self, spec: TrialSpec, folder: TrialFolder, outcome: AttemptOutcome) -> AttemptOutcome:
        """Turn a failure that may be retried into WAITING and remove its result; return any other outcome unchanged."""
        if outcome.state is not TrialState.FAILED or outcome.result is None or outcome.result.failure is None:
            return outcome
        failures = self._failures(spec, folder.events()[0])
        if not failures:
            return outcome
        kind, batch_size = failures[-1].kind, spec.train.batch_size
        if not may_retry(failures, self._policy, batch_size, fits=self._fits):
            if kind is not FailureKind.DEVICE_LOST or self._has_slots():
                return outcome
            folder.discard_result()
            return replace(outcome, state=TrialState.WAITING, reason=f"{outcome.reason}; it waits: no GPU is left here")
        terms = choose_terms(failures, batch_size, fits=self._fits)
        how = ""
        if kind is FailureKind.CUDA_OUT_OF_MEMORY:
            how = f" with a batch of {batch_size} in {terms.accumulate} parts"
            if terms.more_than_mb is not None:
                how = f" with more than {terms.more_than_mb} MB of a GPU"
        folder.discard_result()
        count = f"{_count(failures, kind)} of {self._policy.num_allowed(kind)} for {kind.words}"
        return replace(outcome, state=TrialState.WAITING, reason=f"{outcome.reason}; retrying{how} ({count})")

    def set_terms(self, spec: TrialSpec, folder: TrialFolder) -> Terms:
        """Choose the terms of a trial's next attempt from its folder, and use them for its memory estimate."""
        events, _ = folder.events()
        failures = self._failures(spec, events) if events else ()
        self._memory.terms[spec.key] = choose_terms(failures, spec.train.batch_size, fits=self._fits)
        return self._memory.terms[spec.key]

    def _has_slots(self) -> bool:
        try:
            self._launcher.free_slots(ANY)
        except LaunchError:
            return False
        return True

    def _failures(self, spec: TrialSpec, events: Iterable[Event]) -> list[Failure]:
        row = self._ledger.states([spec.key]).get(spec.key)
        return read_failures(events, after=row.settled_attempt if row else 0)


def read_failures(events: Iterable[Event], *, after: int = 0) -> list[Failure]:
    """Failures of attempts later than ``after``, in order, one per attempt."""
    epochs: dict[int, int] = {}
    memory_mb: dict[int, int] = {}
    failures: dict[int, Failure] = {}
    for event in events:
        if event.facts.get("memory_mb") is not None:
            memory_mb[event.attempt] = event.facts["memory_mb"]
        if event.epoch is not None:
            epochs[event.attempt] = event.epoch
        if event.kind == "attempt_ended" and event.state is TrialState.FAILED and event.failure and event.attempt > after:
            last = epochs.get(event.attempt)
            epoch = None if last is None else last + 1
            failures[event.attempt] = Failure(event.attempt, event.failure, epoch, memory_mb.get(event.attempt))
    return list(failures.values())


def may_retry(failures: Sequence[Failure], policy: RetrySpec, batch_size: int, *, fits: Fits = _fits_nowhere) -> bool:
    """Whether the policy allows another attempt after the last of these failures."""
    kind = failures[-1].kind
    if _count(failures, kind) > policy.num_allowed(kind):
        return False
    is_same = choose_terms(failures, batch_size, fits=fits) == choose_terms(failures[:-1], batch_size, fits=fits)
    return kind is not FailureKind.CUDA_OUT_OF_MEMORY or not is_same


def choose_terms(failures: Sequence[Failure], batch_size: int, *, fits: Fits = _fits_nowhere) -> Terms:
    """After each out-of-memory failure of the GPU: a larger slot if there is one, else half as many images per step."""
    accumulate, because, more_than_mb = 1, None, None
    for failure in failures:
        if failure.kind is not FailureKind.CUDA_OUT_OF_MEMORY:
            continue
        halved = min(2 * accumulate, batch_size // MIN_IMAGES)
        if failure.memory_mb is not None and fits(MemoryEstimate(failure.memory_mb + 1)):
            more_than_mb = max(failure.memory_mb, more_than_mb or 0)
        elif halved > accumulate:
            accumulate, because, more_than_mb = halved, failure, None
    if because is None:
        return Terms(more_than_mb=more_than_mb)
    when = "" if because.epoch is None else f" in epoch {because.epoch}"
    deviation = f"batch of {batch_size} in {accumulate} parts after {because.kind.words}{when}"
    return Terms(accumulate, deviation, more_than_mb)


def _count(failures: Sequence[Failure], kind: FailureKind) -> int:
    return sum(failure.kind is kind for failure in failures)
