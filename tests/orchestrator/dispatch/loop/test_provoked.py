"""Every kind of failure, provoked in a real training."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from orchestrator.launchers.local import LocalLauncher
from orchestrator.launchers.slots.table import Slot
from orchestrator.spec.sections import LimitsSpec, RetrySpec
from orchestrator.state.trial.failures import FailureKind
from orchestrator.state.trial.folder import TrialFile, TrialFolder
from orchestrator.state.trial.records import TrialSpec, TrialState
from tests.orchestrator.dispatch.loop.conftest import Bench, Point

NEVER = RetrySpec.model_validate(dict.fromkeys(RetrySpec.model_fields, 0))

Run = Callable[..., TrialFolder]


@pytest.fixture
def run(
    bench: Bench, local_launcher: LocalLauncher, make_spec: Callable[..., TrialSpec], tiny_data: Path, user_code: Path
) -> Run:
    """Run a sweep of one tiny trial with a loss of user_code/provoking.py, by the class's name; returns its folder."""

    def run(loss: str, *, retry: RetrySpec = NEVER, **options: Any) -> TrialFolder:
        trial = make_spec(loss={"name": f"provoking:{loss}", "options": options})
        limits = LimitsSpec(silence_s=8 if loss == "Hanging" else 900, free_disk_gb=0)
        bench.run([Point("one", (trial,))], local_launcher, data_folder=tiny_data, retry=retry, limits=limits)
        return bench.folder(trial.key)

    return run


@pytest.mark.parametrize(
    ("loss", "kind", "reason", "last_words"),
    [
        ("Raising", FailureKind.EXCEPTION, "ValueError: there is a bug in it", "ValueError: there is a bug in it"),
        ("AskingForGpu", FailureKind.EXCEPTION, "RuntimeError: No CUDA GPUs are available", "in forward"),  # of a CPU slot
        ("Nan", FailureKind.DIVERGED, "DivergedError: epoch 1, step 1 of 2: the loss is nan", "DivergedError"),
        ("Exiting", FailureKind.EXIT, "the worker ended with exit code 3 and left no result", "--- attempt 1"),
        ("Quitting", FailureKind.EXIT, "SystemExit: 3", "in forward"),
        ("Crashing", FailureKind.SIGNAL, "killed by signal 11 (SIGSEGV)", "in forward"),
        ("Hungry", FailureKind.OUT_OF_MEMORY, "RuntimeError: ", "can't allocate memory"),
        ("no_such_loss", FailureKind.BAD_CONFIGURATION, "ConfigError: ", "no_such_loss"),
        pytest.param("Hanging", FailureKind.HANG, "killed after ", "in forward", marks=pytest.mark.slow),
    ],
)
def test_a_failure_has_its_kind(run: Run, loss: str, kind: FailureKind, reason: str, last_words: str) -> None:
    """With one line that says why, the end of the log, and no process left."""
    folder = run(loss)
    result = folder.result()
    assert result is not None
    assert (result.state, result.failure) == (TrialState.FAILED, kind)
    assert (result.reason or "").startswith(reason)
    assert last_words in (result.log_tail or "")
    pid = next(event.facts["pid"] for event in folder.events()[0] if "pid" in event.facts)
    assert not psutil.pid_exists(pid)


@pytest.mark.slow
def test_the_sweep_continues_after_an_attempt_that_only_a_kill_could_end(
    bench: Bench,
    cpu_slots: tuple[Slot, ...],
    tmp_path: Path,
    make_spec: Callable[..., TrialSpec],
    tiny_data: Path,
    user_code: Path,
) -> None:
    """It ignores every other signal; its log says where it stood, and the next trial gets its slot."""
    trials = [make_spec(loss={"name": f"provoking:{loss}"}) for loss in ("Stuck", "Loss")]
    points = [Point(str(i), (trial,)) for i, trial in enumerate(trials)]
    launcher = LocalLauncher(cpu_slots[:1], locks=tmp_path / "slots")
    try:
        limits = LimitsSpec(silence_s=8, free_disk_gb=0)
        outcome = bench.run(points, launcher, data_folder=tiny_data, retry=NEVER, limits=limits)
    finally:
        launcher.close()
    stuck, next_one = outcome.trials
    assert stuck.result is not None
    assert (stuck.state, stuck.result.failure) == (TrialState.FAILED, FailureKind.HANG)
    assert "provoking.py" in (stuck.result.log_tail or "")
    assert next_one.state is TrialState.COMPLETE


@pytest.fixture
def memory_group() -> Iterator[Path]:
    """A control group of 128 MiB; skipped if it cannot be created."""
    root = Path("/sys/fs/cgroup")
    root = root / "memory" if (root / "memory").is_dir() else root
    group = root / f"orchestrate-test-{os.getpid()}"
    try:
        group.mkdir()
    except OSError as error:
        pytest.skip(f"no control group can be made: {error}")
    try:
        limits = [group / name for name in ("memory.max", "memory.limit_in_bytes") if (group / name).exists()]
        if not limits:
            pytest.skip("control groups here limit no memory")
        limits[0].write_text(str(2**27))
        yield group
    finally:
        group.rmdir()


def test_a_kill_is_attributed(run: Run, memory_group: Path) -> None:
    """To a lack of memory if the kernel's count rose at that time, otherwise to an outside process."""
    result = run("Killed").result()
    assert result is not None
    assert result.failure is FailureKind.SIGNAL, result.reason
    assert "from outside" in (result.reason or "")
    result = run("Starving", group=str(memory_group)).result()
    assert result is not None
    assert result.failure is FailureKind.OUT_OF_MEMORY, result.reason
    assert "most likely out of memory" in (result.reason or "")


def test_a_batch_that_does_not_fit_is_cut(run: Run) -> None:
    """Until it fits; the trial is complete and records its terms."""
    folder = run("Large", retry=RetrySpec(), most=2)
    result = folder.result()
    assert result is not None
    assert (result.state, result.attempt) == (TrialState.COMPLETE, 3)
    assert result.deviation == "batch of 6 in 3 parts after CUDA out of memory"
    log = (folder.path / TrialFile.LOG).read_text()
    assert "attempt 3 on cpu-0" in log or "attempt 3 on cpu-1" in log
    assert "batch of 6 in 2 parts after CUDA out of memory" in log


def test_a_batch_that_never_fits_fails(run: Run) -> None:
    """With two images per part the failure is final."""
    result = run("Large", retry=RetrySpec(cuda_out_of_memory=9), most=1).result()
    assert result is not None
    assert (result.state, result.failure, result.attempt) == (TrialState.FAILED, FailureKind.CUDA_OUT_OF_MEMORY, 3)


def test_a_random_crash_costs_one_more_attempt(run: Run, tmp_path: Path) -> None:
    """By default."""
    result = run("Once", retry=RetrySpec(), file=str(tmp_path / "failed already")).result()
    assert result is not None
    assert (result.state, result.attempt, result.deviation) == (TrialState.COMPLETE, 2, None)
