"""Runs attempts on this machine: each in a fresh process, forked from a server that has everything imported."""

import gc
import multiprocessing
import multiprocessing.forkserver
import os
import sys
import types
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.context import ForkServerProcess
from pathlib import Path

from orchestrator.errors import LaunchError
from orchestrator.launchers.base import DEFAULT_REQUESTER, STARTED_BY, UNKNOWN, JobExit, MemoryEstimate, Requester
from orchestrator.launchers.slots.gpu_sharing import adjust_reservation
from orchestrator.launchers.slots.gpus import GpuWatch
from orchestrator.launchers.slots.locks import HeldSlot
from orchestrator.launchers.slots.table import SlotTable
from orchestrator.launchers.worker import main as worker
from orchestrator.launchers.worker.contract import KILLED, ExitCode, Slot

FORKSERVER_GONE = 255
"""Exit code that multiprocessing reports if the forkserver has died; the kernel then kills the process."""


class LocalJob:
    """An attempt in its own process."""

    def __init__(self, folder: Path, process: ForkServerProcess, held: HeldSlot, table: SlotTable) -> None:
        self.folder = folder
        self._process = process
        self._held = held
        self._table = table
        self._exit: JobExit | None = None

    def poll(self) -> JobExit | None:
        if self._exit is None and (code := self._process.exitcode) is not None:
            self._exit = JobExit(KILLED if code == FORKSERVER_GONE else code)
            self._process.join()
            self._table.release(self._held, is_lost=code == ExitCode.DEVICE_LOST)
        return self._exit

    def join(self) -> None:
        """Wait until the process has ended."""
        self._process.join()
        self.poll()

    def stop(self, *, force: bool = False) -> None:
        # does not poll first: a signal handler may call this in the middle of poll
        if self._exit is None:
            self._process.kill() if force else self._process.terminate()


class LocalLauncher:
    """Shares this machine's slots with the other dispatchers on it.

    Used by one thread, which must outlive it: the forkserver dies with the thread that started it. The forkserver's imports take
    seconds and begin at construction, in the background; the first ``launch`` waits for them.

    most: slots to hold at a time; None: all. watch: on the slots' GPUs; started here and closed with the launcher.
    requester: as in SlotTable.
    """

    def __init__(
        self,
        slots: Sequence[Slot],
        *,
        most: int | None = None,
        locks: Path | None = None,
        watch: GpuWatch | None = None,
        requester: Requester = DEFAULT_REQUESTER,
    ) -> None:
        self._watch = watch or GpuWatch()
        self._table = SlotTable(slots, locks, most=most, watch=self._watch, requester=requester)
        if any(slot.visible_devices for slot in slots):
            self._watch.start()
        self._jobs: list[LocalJob] = []
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["orchestrator.launchers.worker.preload"])
        os.environ[STARTED_BY] = str(os.getpid())  # so that a forkserver notices if we died before it asked the kernel
        with _hidden_main():
            multiprocessing.forkserver.ensure_running()

    def free_slots(self, memory: MemoryEstimate = UNKNOWN) -> int:
        return self._table.count_free(memory)

    def fits(self, memory: MemoryEstimate) -> bool:
        return self._table.fits(memory)

    def line_up(self, estimates: Sequence[MemoryEstimate]) -> Requester | None:
        return self._table.line_up(estimates)

    def launch(self, folder: Path, memory: MemoryEstimate = UNKNOWN) -> LocalJob:
        held = self._table.take(memory)
        if held is None:
            raise LaunchError(
                f"no slot is free: all {self._table.num_allowed} are taken, perhaps by another sweep on this machine"
            )
        try:
            process = self._start(folder, held)
        except BaseException:
            self._table.release(held, is_lost=False)
            raise
        job = LocalJob(folder, process, held, self._table)
        self._jobs = [one for one in self._jobs if one.poll() is None] + [job]
        return job

    def close(self) -> None:
        self._watch.close()
        self._table.line_up(())
        for job in self._jobs:
            job.stop(force=True)
        for job in self._jobs:
            job.join()
        self._jobs = []

    def _start(self, folder: Path, held: HeldSlot) -> ForkServerProcess:
        """Fork a worker; a dead forkserver is started once more."""
        for is_last in (False, True):
            process = self._context.Process(target=_work, args=(str(folder), held), name=f"trial {folder.name}")
            try:
                with _hidden_main():
                    process.start()
            except (OSError, EOFError) as error:
                if is_last:
                    raise LaunchError(
                        f"no worker can be started: {type(error).__name__}: {error}. "
                        f"See what this prints: {sys.executable} "
                        "-c 'import torch, orchestrator.launchers.worker.main, trainers.training.train'"
                    ) from error
            else:
                return process
        raise AssertionError("unreachable")


def _work(folder: str, held: HeldSlot) -> None:
    """Our first code in the new process."""
    gc.enable()  # after preload.py, which left it off
    sys.exit(worker.run(Path(folder), held.slot, on_peak=lambda peak_mb: adjust_reservation(held, peak_mb)))


@contextmanager
def _hidden_main() -> Iterator[None]:
    """Keep every worker from importing the main file, which takes time, and would run an unguarded script again."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main
