"""What a worker's process does to itself before it works: environment, log, signals, and dying with its dispatcher."""

from __future__ import annotations

import ctypes
import faulthandler
import multiprocessing
import multiprocessing.connection
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from orchestrator.launchers.worker.slot import Slot

PR_SET_PDEATHSIG = 1
"""prctl(2)."""

DISPATCHER_GONE = 5
"""Exit code of a worker whose dispatcher has died; nobody is left to read it."""


def take_slot(slot: Slot) -> None:
    """Confine this process to its slot; to be called before the first CUDA call and before libraries start threads."""
    os.environ["CUDA_VISIBLE_DEVICES"] = slot.visible_devices
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
        os.environ[variable] = str(slot.num_threads)


def write_to_log(log: Path) -> None:
    """Send all that this process prints, C libraries and crashes included, to the end of ``log``."""
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    sys.stdout.flush()
    sys.stderr.flush()
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.close(descriptor)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(line_buffering=True, errors="backslashreplace")
    faulthandler.enable(file=2)


def drop_output() -> None:
    """Let what this process still prints go nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    os.close(nowhere)


def stop_on_sigterm() -> Callable[[], bool]:
    """Turn SIGTERM into a wish to stop, one that waits already too; returns what tells whether it was uttered.

    SIGINT is ignored: Ctrl-C reaches every process of a terminal, and it is for the dispatcher to decide.
    """
    wish = threading.Event()
    signal.signal(signal.SIGTERM, lambda _number, _frame: wish.set())
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
    return wish.is_set


def outlive_sigterm() -> None:
    """Let SIGTERM wait, for this process and those that it forks, which take it by ``stop_on_sigterm``.

    A scheduler that ends a job, and systemd, send it to every process of the job: it is for the dispatcher to decide. Blocked,
    and not handled: Python forgets what has come in between a fork and the first line of the new process.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])


def die_with_parent(parent: int | None = None) -> None:
    """Have the kernel kill this process when the thread that started it dies (Linux).

    parent: its process; where that has died already, before the kernel was asked, this process ends at once.
    """
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
        if parent is not None and os.getppid() != parent:
            os._exit(DISPATCHER_GONE)


def die_with_dispatcher() -> None:
    """End this process and what it forks when the dispatcher dies, however it dies.

    Two ways, each enough alone: the kernel kills a forkserver when its dispatcher dies and a worker when its forkserver
    does, even where the worker is stuck in C code; and a pipe from the dispatcher closes, wherever there is no prctl.
    """
    die_with_parent()
    _bind_forks()
    dispatcher = multiprocessing.parent_process()
    if dispatcher is not None:
        watch = threading.Thread(target=_end_after, args=(dispatcher.sentinel,), name="watch-dispatcher", daemon=True)
        watch.start()


def _bind_forks() -> None:
    """Have whatever this process forks, such as loaders, die with the process that forked it."""
    forking = {"pid": os.getpid()}
    os.register_at_fork(
        before=lambda: forking.update(pid=os.getpid()),
        after_in_child=lambda: die_with_parent(forking["pid"]),
    )


def offer_to_oom_killer() -> None:
    """Let the kernel, out of memory, kill this process rather than the dispatcher (Linux)."""
    score = Path("/proc/self/oom_score_adj")
    if score.exists():
        score.write_text("500", encoding="ascii")


def _end_after(sentinel: int) -> None:
    multiprocessing.connection.wait([sentinel])
    os._exit(DISPATCHER_GONE)
