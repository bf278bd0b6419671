"""``retry:`` and ``limits:`` of a sweep file."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.errors import SpecError
from orchestrator.spec import load_spec
from orchestrator.spec.sections import LimitsSpec, RetrySpec
from orchestrator.state.trial.failures import FailureKind


def load(folder: Path, text: str) -> tuple[RetrySpec, LimitsSpec]:
    """What the file says of them."""
    (folder / "sweep.yaml").write_text(text)
    spec = load_spec(folder / "sweep.yaml")
    return spec.retry, spec.limits


def test_without_a_word_crashes_are_tried_again_once(tmp_path: Path) -> None:
    """And a GPU's memory three times; what would fail again, never."""
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


def test_the_file_may_say_otherwise(tmp_path: Path) -> None:
    """What it does not name stays as it is."""
    retry, limits = load(tmp_path, "retry: {hang: 0, diverged: 2}\nlimits: {silence_s: 60, checkpoint_s: 0}\n")
    assert (retry.hang, retry.diverged, retry.exception) == (0, 2, 1)
    assert (limits.silence_s, limits.free_disk_gb, limits.checkpoint_s) == (60, 2, 0)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("retry: {exeption: 2}\n", "retry.exeption: not a known field.*Did you mean 'exception'"),
        ("retry: {bad_configuration: 1}\n", "retry.bad_configuration: not a known field"),
        ("retry: {hang: -1}\n", "retry.hang is -1. Allowed: at least 0"),
        ("limits: {silence_s: 1}\n", "limits.silence_s is 1. Allowed: at least 5"),
        ("limits: {free_disk_gb: lots}\n", "limits.free_disk_gb is 'lots'. Allowed: a number"),
    ],
)
def test_what_it_says_wrongly_is_told(tmp_path: Path, text: str, said: str) -> None:
    """With line, place, and what is allowed."""
    with pytest.raises(SpecError, match=said):
        load(tmp_path, text)
