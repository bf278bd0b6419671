"""``retry:`` and ``limits:`` of a sweep file."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.errors import SpecError
from orchestrator.spec import load_spec
from orchestrator.spec.sections import LimitsSpec, RetrySpec
from orchestrator.state.trial.failures import FailureKind


def load(folder: Path, text: str) -> tuple[RetrySpec, LimitsSpec]:
    """The two sections of a file."""
    (folder / "sweep.yaml").write_text(text)
    spec = load_spec(folder / "sweep.yaml")
    return spec.retry, spec.limits


def test_crashes_are_retried_once_by_default(tmp_path: Path) -> None:
    """A full GPU memory is retried three times; what would fail again, never."""
    retry, limits = load(tmp_path, "data: {source: synthetic}\n")
    allowed = {kind: retry.num_allowed(kind) for kind in FailureKind}
    assert {kind for kind, count in allowed.items() if count == 0} == {
        FailureKind.BAD_CONFIGURATION,
        FailureKind.BAD_DATA,
        FailureKind.DIVERGED,
        FailureKind.DISK_FULL,
    }
    assert allowed[FailureKind.CUDA_OUT_OF_MEMORY] == 3
    assert allowed[FailureKind.EXCEPTION] == 1
    assert (limits.silence_s, limits.free_disk_gb, limits.checkpoint_s) == (900, 2, 15)


def test_a_file_overrides_the_defaults(tmp_path: Path) -> None:
    """Fields that it does not name keep their defaults."""
    retry, limits = load(tmp_path, "retry: {hang: 0, diverged: 2}\nlimits: {silence_s: 60, checkpoint_s: 0}\n")
    assert (retry.hang, retry.diverged, retry.exception) == (0, 2, 1)
    assert (limits.silence_s, limits.free_disk_gb, limits.checkpoint_s) == (60, 2, 0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("retry: {exeption: 2}\n", "retry.exeption: not a known field.*Did you mean 'exception'"),
        ("retry: {bad_configuration: 1}\n", "retry.bad_configuration: not a known field"),
        ("retry: {hang: -1}\n", "retry.hang is -1. Allowed: at least 0"),
        ("limits: {silence_s: 1}\n", "limits.silence_s is 1. Allowed: at least 5"),
        ("limits: {free_disk_gb: lots}\n", "limits.free_disk_gb is 'lots'. Allowed: a number"),
    ],
)
def test_an_error_names_its_place(tmp_path: Path, text: str, message: str) -> None:
    """The message holds line, place, and what is allowed."""
    with pytest.raises(SpecError, match=message):
        load(tmp_path, text)
