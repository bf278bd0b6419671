"""What a worker's process sets up before it works: environment, log, signals, and dying with its dispatcher."""

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

from orchestrator.launchers.worker.contract import Slot

PR_SET_PDEATHSIG = 1
"""prctl(2)."""

DISPATCHER_GONE = 5
"""Exit code of a worker whose dispatcher has died; nobody is left to read it."""


def take_slot(slot: Slot) -> None:
    """Confine this process to its slot. Called before the first CUDA call and before libraries start threads."""
    os.environ["CUDA_VISIBLE_DEVICES"] = slot.visible_devices
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
        os.environ[variable] = str(slot.num_threads)


def write_to_log(log: Path) -> None:
    """Append all that this process prints to ``log``, C libraries and crashes included."""
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
    """Discard what this process still prints."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    os.close(nowhere)


def stop_on_sigterm() -> Callable[[], bool]:
    """Turn SIGTERM into a stop request, also one that is pending; returns a function that says whether there was one.

    SIGINT is ignored: Ctrl-C reaches every process of a terminal, and the dispatcher decides.
    """
    stop_request = threading.Event()
    signal.signal(signal.SIGTERM, lambda _number, _frame: stop_request.set())
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
    return stop_request.is_set


def block_sigterm() -> None:
    """Keep SIGTERM pending, in this process and in forked ones until they call ``stop_on_sigterm``.

    Schedulers and systemd send it to every process of a job, and the dispatcher decides. It is blocked instead of handled because
    Python loses a signal that arrives between a fork and the first line of the new process.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])


def die_with_parent(parent: int | None = None) -> None:
    """Have the kernel kill this process when the thread that started it dies (Linux).

    parent: the process of that thread; if it has died already, this process ends at once.
    """
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
        if parent is not None and os.getppid() != parent:
            os._exit(DISPATCHER_GONE)


def die_with_dispatcher() -> None:
    """End this process and its forks, such as data loaders, when the dispatcher dies, however it dies.

    Each of two ways suffices. The kernel kills a forkserver with its dispatcher and a worker with its forkserver, even one that
    is stuck in C code. And a pipe from the dispatcher closes, also where there is no prctl.
    """
    die_with_parent()
    forking = {"pid": os.getpid()}
    os.register_at_fork(before=lambda: forking.update(pid=os.getpid()), after_in_child=lambda: die_with_parent(forking["pid"]))
    dispatcher = multiprocessing.parent_process()
    if dispatcher is not None:
        threading.Thread(target=_exit_after, args=(dispatcher.sentinel,), name="watch-dispatcher", daemon=True).start()


def offer_to_oom_killer() -> None:
    """Make the kernel prefer this process over the dispatcher when memory runs out (Linux)."""
    score = Path("/proc/self/oom_score_adj")
    if score.exists():
        score.write_text("500", encoding="ascii")


def _exit_after(sentinel: int) -> None:
    multiprocessing.connection.wait([sentinel])
    os._exit(DISPATCHER_GONE)
