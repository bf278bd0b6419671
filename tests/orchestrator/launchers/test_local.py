"""The local launcher: fresh processes that are confined to their slot and never orphaned."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from orchestrator.launchers.base import JobExit
from orchestrator.launchers.local import LocalLauncher
from orchestrator.launchers.worker.contract import ExitCode, Slot
from orchestrator.state.trial.folder import TrialFile, TrialFolder
from orchestrator.state.trial.records import Event

DISPATCHER = """
import sys, time
from pathlib import Path
from orchestrator.launchers.local import LocalLauncher
from orchestrator.launchers.worker.contract import Slot

launcher = LocalLauncher([Slot("cpu-0", "", 1), Slot("cpu-1", "", 1)], locks=Path(sys.argv[1]))
jobs = [launcher.launch(Path(folder)) for folder in sys.argv[2:]]
while True:
    time.sleep(60)
"""


def wait_for_event(trial: TrialFolder, kind: str, timeout_s: float = 120) -> Event:
    """The first event of its kind."""
    deadline_s = time.monotonic() + timeout_s
    while not (found := [event for event in trial.events()[0] if event.kind == kind]):
        assert time.monotonic() < deadline_s, trial.log_tail()
        time.sleep(0.01)
    return found[0]


def wait_until(is_so: Callable[[], bool], timeout_s: float) -> bool:
    """Whether it became true in time."""
    deadline_s = time.monotonic() + timeout_s
    while not is_so():
        if time.monotonic() > deadline_s:
            return False
        time.sleep(0.01)
    return True


def is_gone(process: psutil.Process) -> bool:
    """Ended, or a zombie that its parent has not reaped."""
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


def test_the_dispatcher_imports_nothing_heavy(cpu_slots: tuple[Slot, ...], tmp_path: Path) -> None:
    """The launcher itself loads no torch; only the forkserver preloads."""
    code = "import sys, orchestrator.launchers.local, orchestrator.dispatch.loop.dispatcher; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "numpy", "cv2", "mlflow", "optuna"} & set(loaded)


def test_a_worker_finds_everything_loaded_and_cuda_untouched() -> None:
    """What a worker needs is preloaded, but no library of a server, and the CUDA runtime is not initialized."""
    code = """if True:
        import multiprocessing.forkserver, sys
        main = multiprocessing.forkserver.main  # as in the forkserver, whose code begins so
        import orchestrator.launchers.worker.preload
        import torch
        ours = {"trainers.training.train", "orchestrator.launchers.worker.main"}
        heavy = ours | {"torch", "torchvision", "segmentation_models_pytorch", "albumentations"}
        print(heavy - set(sys.modules), {"mlflow", "optuna"} & set(sys.modules), torch.cuda.is_initialized())
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["set()", "set()", "False"]


def test_a_killed_worker_frees_its_slot(
    local_launcher: LocalLauncher, make_trial: Callable[..., TrialFolder], tmp_path: Path
) -> None:
    """A signal from outside is reported as such; the lock file that stays behind keeps nobody out."""
    trial = make_trial(tmp_path / "trial", epochs=10_000)
    for _ in range(2):
        seen = len(trial.events()[0])
        job = local_launcher.launch(trial.path)
        assert wait_until(lambda seen=seen: len(trial.events()[0]) > seen + 1, 120)
        pid = trial.events()[0][seen].facts["pid"]
        os.kill(pid, signal.SIGKILL)
        assert wait_until(lambda job=job: job.poll() is not None, 5)
        assert job.poll() == JobExit(-9)
        assert (trial.path / TrialFile.LOCK).exists()
        assert local_launcher.free_slots() == 2


def test_ctrl_c_is_for_the_dispatcher(
    local_launcher: LocalLauncher, make_trial: Callable[..., TrialFolder], tmp_path: Path
) -> None:
    """A worker ignores SIGINT, and is in no process group that a terminal would send it to."""
    trial = make_trial(tmp_path / "trial", epochs=10_000)
    job = local_launcher.launch(trial.path)
    pid = wait_for_event(trial, "attempt_started").facts["pid"]
    os.kill(pid, signal.SIGINT)
    wait_for_event(trial, "epoch")
    assert job.poll() is None
    assert os.getpgid(pid) != os.getpgid(0)
    job.stop(force=True)
    assert wait_until(lambda: job.poll() is not None, 5)


def test_sigterm_to_a_whole_job_is_for_the_dispatcher(
    local_launcher: LocalLauncher, make_trial: Callable[..., TrialFolder], tmp_path: Path
) -> None:
    """As a scheduler sends it to every process: the epoch ends and is kept, and the forkserver survives for others."""
    first, second = (make_trial(tmp_path / name, epochs=10_000) for name in ("first", "second"))
    job = local_launcher.launch(first.path)
    wait_for_event(first, "epoch")
    worker = psutil.Process(_pid_of(first))
    forkserver = worker.parent()
    assert forkserver is not None
    for process in (forkserver, worker):
        process.terminate()
    assert wait_until(lambda: job.poll() is not None, 30)
    assert job.poll() == JobExit(ExitCode.STOPPED)
    job = local_launcher.launch(second.path)
    wait_for_event(second, "epoch")
    assert psutil.Process(_pid_of(second)).parent() == forkserver
    job.stop(force=True)
    assert wait_until(lambda: job.poll() is not None, 5)


def test_a_stop_request_counts_from_the_first_moment(
    local_launcher: LocalLauncher, make_trial: Callable[..., TrialFolder], tmp_path: Path
) -> None:
    """Attempts that are asked right after launch end as stopped: they neither die nor continue to train."""
    trial = make_trial(tmp_path / "trial", epochs=10_000)
    for _ in range(10):
        job = local_launcher.launch(trial.path)
        job.stop()
        assert wait_until(lambda job=job: job.poll() is not None, 30)
        assert job.poll() == JobExit(ExitCode.STOPPED)


@pytest.mark.slow
@pytest.mark.parametrize("whom", ["dispatcher", "group", "forkserver"])
def test_no_worker_outlives_its_dispatcher(whom: str, make_trial: Callable[..., TrialFolder], tmp_path: Path) -> None:
    """After kill -9 of the dispatcher, of its whole process group, or of the forkserver: all workers are gone in 2 s."""
    trials = [make_trial(tmp_path / str(index), epochs=10_000, seed=index) for index in range(2)]
    command = [sys.executable, "-c", DISPATCHER, str(tmp_path / "slots"), *(str(trial.path) for trial in trials)]
    dispatcher = subprocess.Popen(command, start_new_session=True)
    try:
        workers = [psutil.Process(wait_for_event(trial, "epoch") and _pid_of(trial)) for trial in trials]
        forkserver = workers[0].parent()
        assert forkserver is not None
        assert forkserver.pid != dispatcher.pid
        if whom == "group":
            os.killpg(dispatcher.pid, signal.SIGKILL)
        else:
            os.kill(dispatcher.pid if whom == "dispatcher" else forkserver.pid, signal.SIGKILL)
        assert wait_until(lambda: all(is_gone(worker) for worker in workers), 2)
        assert wait_until(lambda: is_gone(forkserver), 2)
    finally:
        dispatcher.kill()
        dispatcher.wait()


@pytest.mark.slow
def test_no_loader_outlives_its_worker(make_trial: Callable[..., TrialFolder], user_code: Path, tmp_path: Path) -> None:
    """After kill -9 of the worker, or of the dispatcher: the worker's forks are gone in 2 s."""
    trials = []
    for seed in range(2):
        loss = {"name": "provoking:WithLoaders", "options": {"file": str(tmp_path / f"pids of {seed}")}}
        trials.append(make_trial(tmp_path / str(seed), epochs=10_000, seed=seed, loss=loss))
    command = [sys.executable, "-c", DISPATCHER, str(tmp_path / "slots"), *(str(trial.path) for trial in trials)]
    dispatcher = subprocess.Popen(command, start_new_session=True)
    try:
        families = []
        for seed, trial in enumerate(trials):
            wait_for_event(trial, "epoch")
            worker = psutil.Process(_pid_of(trial))
            loaders = [psutil.Process(int(pid)) for pid in (tmp_path / f"pids of {seed}").read_text().split()]
            assert [loader.ppid() for loader in loaders] == [worker.pid] * 2
            families.append([worker, *loaders])
        for family, killed in zip(families, (families[0][0].pid, dispatcher.pid), strict=True):
            os.kill(killed, signal.SIGKILL)
            assert wait_until(lambda family=family: all(is_gone(process) for process in family), 2)
    finally:
        dispatcher.kill()
        dispatcher.wait()


@pytest.mark.slow
def test_a_dead_forkserver_is_started_again(
    cpu_slots: tuple[Slot, ...], make_trial: Callable[..., TrialFolder], tmp_path: Path
) -> None:
    """Its workers count as killed, and the next launch works."""
    code = DISPATCHER.replace(
        "while True:\n    time.sleep(60)",
        """
import os, psutil, signal
[job] = jobs
while not (job.folder / "last.pt").parent.joinpath("progress.jsonl").exists():
    time.sleep(0.01)
os.kill(psutil.Process(job._process.pid).ppid(), signal.SIGKILL)
while job.poll() is None:
    time.sleep(0.01)
print(job.poll().code)
job = launcher.launch(job.folder)
while job.poll() is None:
    time.sleep(0.01)
print(job.poll().code)
""",
    )
    trial = make_trial(tmp_path / "trial", epochs=2)
    command = [sys.executable, "-c", code, str(tmp_path / "slots"), str(trial.path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["-9", "0"]


def _pid_of(trial: TrialFolder) -> int:
    pid: int = wait_for_event(trial, "attempt_started").facts["pid"]
    return pid


def test_a_forkserver_whose_dispatcher_was_killed_at_once_loads_nothing(tmp_path: Path) -> None:
    """It is gone in 2 s, though the dispatcher died before the kernel was asked, and torch takes longer to load."""
    started = "import multiprocessing.forkserver as server; Path(sys.argv[2]).write_text(str(server._forkserver._forkserver_pid))"
    code = f"{DISPATCHER.partition('jobs')[0]}\n{started}\nimport os; os.kill(os.getpid(), 9)"
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "slots"), str(tmp_path / "pid")], timeout=60)
    assert done.returncode == -signal.SIGKILL
    pid = int((tmp_path / "pid").read_text())
    assert wait_until(lambda: not psutil.pid_exists(pid) or is_gone(psutil.Process(pid)), 2)
