"""Laws of retries: their number and their terms."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.dispatch.loop.memory import Terms
from orchestrator.dispatch.loop.retries import Failure, choose_terms, may_retry, read_failures
from orchestrator.launchers.base import MemoryEstimate
from orchestrator.spec.sections import RetrySpec
from orchestrator.state.trial.failures import FailureKind
from orchestrator.state.trial.records import Event, TrialState

KINDS = st.sampled_from(sorted(FailureKind))
POLICIES = st.builds(RetrySpec, **{name: st.integers(0, 5) for name in RetrySpec.model_fields})
LIMITED = set(RetrySpec.model_fields)
OUT = FailureKind.CUDA_OUT_OF_MEMORY


def test_every_kind_that_may_be_retried_is_a_field_of_the_file() -> None:
    """The fields of ``retry:`` are kinds of failure."""
    assert {str(kind) for kind in FailureKind} - LIMITED == {"bad_configuration", "bad_data", "disk_full"}
    assert {str(kind) for kind in FailureKind} >= LIMITED


@given(kinds=st.lists(KINDS, min_size=40, max_size=40), policy=POLICIES, batch_size=st.integers(1, 64))
def test_a_trial_is_not_retried_forever(kinds: list[FailureKind], policy: RetrySpec, batch_size: int) -> None:
    """For any failures in any order, there is at most one attempt more than the policy's retries."""
    failures: list[Failure] = []
    for attempt, kind in enumerate(kinds, start=1):
        failures.append(Failure(attempt, kind))
        if not may_retry(failures, policy, batch_size):
            break
    assert len(failures) <= 1 + sum(policy.model_dump().values())


@given(kinds=st.lists(KINDS, max_size=12), batch_size=st.integers(1, 300))
def test_parts_never_have_a_single_image(kinds: list[FailureKind], batch_size: int) -> None:
    """The number of parts at most doubles after each out-of-memory failure."""
    failures = [Failure(attempt, kind) for attempt, kind in enumerate(kinds, start=1)]
    parts = [choose_terms(failures[:count], batch_size).accumulate for count in range(len(failures) + 1)]
    assert parts[0] == 1
    for before, after, kind in zip(parts, parts[1:], kinds, strict=False):
        assert before <= after <= 2 * before
        assert after == before or kind is FailureKind.CUDA_OUT_OF_MEMORY
    assert parts[-1] == 1 or batch_size // parts[-1] >= 2


@given(kinds=st.lists(KINDS, min_size=1, max_size=12), batch_size=st.integers(1, 64))
def test_other_terms_are_recorded(kinds: list[FailureKind], batch_size: int) -> None:
    """There is a deviation exactly if a batch is cut."""
    terms = choose_terms([Failure(attempt, kind) for attempt, kind in enumerate(kinds, start=1)], batch_size)
    assert (terms.deviation is None) == (terms.accumulate == 1)


@given(attempts=st.lists(st.tuples(KINDS, st.integers(1, 3)), max_size=8), after=st.integers(0, 9))
def test_an_attempt_fails_once(attempts: list[tuple[FailureKind, int]], after: int) -> None:
    """Although its end may be written twice, by the worker and by a dispatcher; earlier attempts do not count."""
    events = [
        Event(kind="attempt_ended", time_s=0, attempt=attempt, state=TrialState.FAILED, failure=kind)
        for attempt, (kind, times) in enumerate(attempts, start=1)
        for _ in range(times)
    ]
    failures = read_failures(events, after=after)
    assert [failure.attempt for failure in failures] == list(range(after + 1, len(attempts) + 1))
    assert [failure.kind for failure in failures] == [kind for kind, _ in attempts[after:]]


def test_a_larger_slot_comes_before_a_smaller_batch() -> None:
    """While there is one; then the batch is cut, and its parts may run on any slot again."""
    lacked = [Failure(1, OUT, memory_mb=6000), Failure(2, OUT, memory_mb=24000), Failure(3, OUT, memory_mb=80000)]
    terms = [choose_terms(lacked[:count], 32, fits=lambda need: need.mb <= 80000) for count in range(4)]
    assert terms[:3] == [Terms(), Terms(more_than_mb=6000), Terms(more_than_mb=24000)]
    assert (terms[3].accumulate, terms[3].more_than_mb) == (2, None)
    assert choose_terms(lacked[:1], 32).accumulate == 2


def test_the_smallest_batch_may_still_need_a_larger_gpu() -> None:
    """It is retried if there is one, and has failed otherwise."""

    def fits(need: MemoryEstimate) -> bool:
        return need.mb <= 80000

    lacked = [Failure(1, OUT, memory_mb=24000)]
    assert may_retry(lacked, RetrySpec(), 2, fits=fits)
    assert not may_retry(lacked, RetrySpec(), 2)
    assert not may_retry([*lacked, Failure(2, OUT, memory_mb=80000)], RetrySpec(), 2, fits=fits)


def test_the_last_share_of_an_attempt_counts() -> None:
    """Its share of the GPU may have been reduced after an epoch."""
    events = [
        Event(kind="attempt_started", time_s=0, attempt=1, facts={"memory_mb": 24000}),
        Event(kind="epoch", time_s=0, attempt=1, epoch=1, facts={"memory_mb": 3000}),
        Event(kind="epoch", time_s=0, attempt=1, epoch=2, facts={"memory_mb": None}),
        Event(kind="attempt_ended", time_s=0, attempt=1, state=TrialState.FAILED, failure=OUT),
    ]
    assert read_failures(events) == [Failure(1, OUT, epoch=3, memory_mb=3000)]


def test_a_stopped_attempt_is_no_failure() -> None:
    """Neither is one whose disk was full."""
    events = [
        Event(kind="attempt_ended", time_s=0, attempt=1, state=TrialState.WAITING, reason="stopped"),
        Event(kind="attempt_ended", time_s=0, attempt=2, state=TrialState.WAITING, failure=FailureKind.DISK_FULL),
    ]
    assert read_failures(events) == []
