"""The explanation of a worker that ended without a result."""

from __future__ import annotations

import pytest

from orchestrator.dispatch.loop.outcomes import Circumstances, explain_exit
from orchestrator.launchers.base import JobExit
from orchestrator.state.trial.failures import FailureKind


@pytest.mark.parametrize(
    ("code", "circumstances", "log", "kind", "said"),
    [
        (-9, Circumstances(had_oom_kills=True), "", FailureKind.OUT_OF_MEMORY, "most likely out of memory"),
        (-9, Circumstances(had_oom_kills=False), "", FailureKind.SIGNAL, "from outside"),
        (
            -9,
            Circumstances(had_oom_kills=None),
            "",
            FailureKind.SIGNAL,
            "perhaps out of memory: this system does not count such kills",
        ),
        (-6, Circumstances(), "terminate called after throwing std::bad_alloc", FailureKind.OUT_OF_MEMORY, "std::bad_alloc"),
        (-6, Circumstances(had_oom_kills=True), "", FailureKind.SIGNAL, "signal 6 (SIGABRT)"),
        (-99, Circumstances(), "", FailureKind.SIGNAL, "signal 99 (unknown)"),
        (-9, Circumstances(silence_s=901.2), "", FailureKind.HANG, "after 901 s without progress (limits.silence_s)"),
        (1, Circumstances(), "", FailureKind.EXIT, "exit code 1 "),
    ],
)
def test_the_explanation_says_no_more_than_is_known(
    code: int, circumstances: Circumstances, log: str, kind: FailureKind, said: str
) -> None:
    """The exit code and what the dispatcher knows; a guess is named as one."""
    found, reason = explain_exit(JobExit(code), circumstances, log)
    assert found is kind
    assert said in reason


@pytest.mark.parametrize(
    ("exit", "kind"),
    [
        (JobExit(-9, "its node is gone"), FailureKind.SIGNAL),
        (JobExit(-9, "its node is gone", lacked_memory=True), FailureKind.OUT_OF_MEMORY),
        (JobExit(1, "its node is gone"), FailureKind.EXIT),
    ],
)
def test_the_launchers_reason_has_priority(exit: JobExit, kind: FailureKind) -> None:
    """Over the count of this machine's kernel: the worker may have been on another machine."""
    assert explain_exit(exit, Circumstances(had_oom_kills=True), "") == (kind, "its node is gone")
