"""Whether a failed trial is tried again, and on which terms: told by its folder and the sweep's policy."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from orchestrator.exits import Ending
from orchestrator.failures import FailureKind
from orchestrator.ledger import Ledger
from orchestrator.spec.limits import RetrySpec
from orchestrator.trial import Event, TrialFolder, TrialSpec, TrialState

FEWEST_PICTURES = 2
"""In a part of a batch: batch norm may need them."""


@dataclass(frozen=True)
class Failure:
    """How an attempt failed. epoch: the one under way, where the attempt had come to its second."""

    attempt: int
    kind: FailureKind
    epoch: int | None = None


@dataclass(frozen=True)
class Terms:
    """accumulate and deviation as in Attempt."""

    accumulate: int = 1
    deviation: str | None = None


class Retries:
    """Decides by what is in a trial's folder, so that a dispatcher that takes over decides the same.

    What counts is what has failed since the ledger was last told an end: after ``orchestrate retry`` a trial starts afresh.
    """

    def __init__(self, policy: RetrySpec, ledger: Ledger) -> None:
        self._policy = policy
        self._ledger = ledger

    def reconsider(self, spec: TrialSpec, folder: TrialFolder, ending: Ending) -> Ending:
        """The ending as it is; or, of a failure that is tried again, WAITING, with no result left in the folder."""
        if ending.state is not TrialState.FAILED or ending.result is None or ending.result.failure is None:
            return ending
        failures = self._failures(spec, folder.events()[0])
        if not failures or not may_retry(failures, self._policy, spec.train.batch_size):
            return ending
        kind = failures[-1].kind
        terms = choose_terms(failures, spec.train.batch_size)
        how = f" with a {_describe_parts(spec.train.batch_size, terms)}" if kind is FailureKind.CUDA_OUT_OF_MEMORY else ""
        folder.discard_result()
        count = f"{_count(failures, kind)} of {self._policy.num_allowed(kind)} for {kind.words}"
        reason = f"{ending.reason}; it is tried again{how} ({count})"
        return replace(ending, state=TrialState.WAITING, reason=reason)

    def choose_terms(self, spec: TrialSpec, events: Sequence[Event]) -> Terms:
        """The terms of a trial's next attempt, from the events in its folder."""
        return choose_terms(self._failures(spec, events), spec.train.batch_size) if events else Terms()

    def _failures(self, spec: TrialSpec, events: Iterable[Event]) -> list[Failure]:
        row = self._ledger.states([spec.key]).get(spec.key)
        return read_failures(events, after=row.settled_attempt if row else 0)


def read_failures(events: Iterable[Event], *, after: int = 0) -> list[Failure]:
    """Failures of attempts later than ``after``, in their order, one an attempt."""
    epochs: dict[int, int] = {}
    failures: dict[int, Failure] = {}
    for event in events:
        if event.epoch is not None:
            epochs[event.attempt] = event.epoch
        if event.kind == "attempt_ended" and event.state is TrialState.FAILED and event.failure and event.attempt > after:
            last = epochs.get(event.attempt)
            failures[event.attempt] = Failure(event.attempt, event.failure, None if last is None else last + 1)
    return list(failures.values())


def may_retry(failures: Sequence[Failure], policy: RetrySpec, batch_size: int) -> bool:
    """Whether the last of the failures leaves a further attempt."""
    kind = failures[-1].kind
    if _count(failures, kind) > policy.num_allowed(kind):
        return False
    is_same = choose_terms(failures, batch_size) == choose_terms(failures[:-1], batch_size)
    return kind is not FailureKind.CUDA_OUT_OF_MEMORY or not is_same


def choose_terms(failures: Sequence[Failure], batch_size: int) -> Terms:
    """Half as many pictures at a time after each time that the GPU's memory did not hold them; at least two."""
    accumulate, because = 1, None
    for failure in failures:
        halved = min(2 * accumulate, batch_size // FEWEST_PICTURES)
        if failure.kind is FailureKind.CUDA_OUT_OF_MEMORY and halved > accumulate:
            accumulate, because = halved, failure
    if because is None:
        return Terms()
    when = "" if because.epoch is None else f" in epoch {because.epoch}"
    terms = Terms(accumulate)
    return replace(terms, deviation=f"{_describe_parts(batch_size, terms)} after {because.kind.words}{when}")


def _describe_parts(batch_size: int, terms: Terms) -> str:
    return f"batch of {batch_size} in {terms.accumulate} parts"


def _count(failures: Sequence[Failure], kind: FailureKind) -> int:
    return sum(failure.kind is kind for failure in failures)
