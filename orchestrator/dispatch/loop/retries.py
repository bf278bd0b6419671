"""Whether a failed trial is tried again, and on which terms: told by its folder and the sweep's policy."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from orchestrator.dispatch.loop.endings import Ending
from orchestrator.errors import LaunchError
from orchestrator.launchers.base import ANY, Launcher, MemoryEstimate, SlotOwner
from orchestrator.spec.sections import RetrySpec
from orchestrator.state.ledger import Ledger
from orchestrator.state.trial.failures import FailureKind
from orchestrator.state.trial.folder import TrialFolder
from orchestrator.state.trial.records import Event, TrialSpec, TrialState

FEWEST_PICTURES = 2
"""In a part of a batch: batch norm may need them."""


Fits = Callable[[MemoryEstimate], bool]
"""Whether there is a slot here that is known to be large enough."""


@dataclass(frozen=True)
class Failure:
    """How an attempt failed. epoch: the one under way, where the attempt had come to its second. memory_mb: what it had of its
    GPU, where that is known.
    """

    attempt: int
    kind: FailureKind
    epoch: int | None = None
    memory_mb: int | None = None


@dataclass(frozen=True)
class Terms:
    """accumulate and deviation as in Attempt. more_than_mb: GPU memory that was too little on these terms."""

    accumulate: int = 1
    deviation: str | None = None
    more_than_mb: int | None = None


def _fits_nowhere(_need: MemoryEstimate) -> bool:
    return False


class Retries:
    """Decides by what is in a trial's folder, so that a dispatcher that takes over decides the same.

    What counts is what has failed since the ledger was last told an end: after ``orchestrate retry`` a trial starts afresh.
    A trial for which one of the launcher's slots was too small gets a larger one, if there is one, before its batch is cut; one
    that has lost the last of them waits for better times.
    """

    def __init__(self, policy: RetrySpec, ledger: Ledger, launcher: Launcher) -> None:
        self._policy = policy
        self._ledger = ledger
        self._launcher = launcher
        self._fits = launcher.fits if isinstance(launcher, SlotOwner) else _fits_nowhere

    def reconsider(self, spec: TrialSpec, folder: TrialFolder, ending: Ending) -> Ending:
        """The ending as it is; or, of a failure that is or may be tried again, WAITING, with no result left in the folder."""
        if ending.state is not TrialState.FAILED or ending.result is None or ending.result.failure is None:
            return ending
        failures = self._failures(spec, folder.events()[0])
        if not failures:
            return ending
        kind = failures[-1].kind
        if not may_retry(failures, self._policy, spec.train.batch_size, fits=self._fits):
            if kind is not FailureKind.DEVICE_LOST or self._has_slots():
                return ending
            folder.discard_result()
            return replace(ending, state=TrialState.WAITING, reason=f"{ending.reason}; it waits: no GPU is left here")
        terms = choose_terms(failures, spec.train.batch_size, fits=self._fits)
        how = f" {_describe_terms(spec.train.batch_size, terms)}" if kind is FailureKind.CUDA_OUT_OF_MEMORY else ""
        folder.discard_result()
        count = f"{_count(failures, kind)} of {self._policy.num_allowed(kind)} for {kind.words}"
        reason = f"{ending.reason}; it is tried again{how} ({count})"
        return replace(ending, state=TrialState.WAITING, reason=reason)

    def choose_terms(self, spec: TrialSpec, events: Sequence[Event]) -> Terms:
        """The terms of a trial's next attempt, from the events in its folder."""
        failures = self._failures(spec, events) if events else ()
        return choose_terms(failures, spec.train.batch_size, fits=self._fits)

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
    """Failures of attempts later than ``after``, in their order, one an attempt."""
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
    """Whether the last of the failures leaves a further attempt."""
    kind = failures[-1].kind
    if _count(failures, kind) > policy.num_allowed(kind):
        return False
    is_same = choose_terms(failures, batch_size, fits=fits) == choose_terms(failures[:-1], batch_size, fits=fits)
    return kind is not FailureKind.CUDA_OUT_OF_MEMORY or not is_same


def choose_terms(failures: Sequence[Failure], batch_size: int, *, fits: Fits = _fits_nowhere) -> Terms:
    """After each time that the GPU's memory did not suffice: more of it, where there is a slot here that has more; else half as
    many pictures at a time, at least two.
    """
    accumulate, because, more_than_mb = 1, None, None
    for failure in failures:
        if failure.kind is not FailureKind.CUDA_OUT_OF_MEMORY:
            continue
        halved = min(2 * accumulate, batch_size // FEWEST_PICTURES)
        if failure.memory_mb is not None and fits(MemoryEstimate(failure.memory_mb + 1)):
            more_than_mb = max(failure.memory_mb, more_than_mb or 0)
        elif halved > accumulate:
            accumulate, because, more_than_mb = halved, failure, None
    if because is None:
        return Terms(more_than_mb=more_than_mb)
    when = "" if because.epoch is None else f" in epoch {because.epoch}"
    terms = Terms(accumulate, more_than_mb=more_than_mb)
    return replace(terms, deviation=f"{_describe_parts(batch_size, terms)} after {because.kind.words}{when}")


def _describe_terms(batch_size: int, terms: Terms) -> str:
    if terms.more_than_mb is not None:
        return f"with more of a GPU than {terms.more_than_mb} MB"
    return f"with a {_describe_parts(batch_size, terms)}"


def _describe_parts(batch_size: int, terms: Terms) -> str:
    return f"batch of {batch_size} in {terms.accumulate} parts"


def _count(failures: Sequence[Failure], kind: FailureKind) -> int:
    return sum(failure.kind is kind for failure in failures)
