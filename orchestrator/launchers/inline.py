"""Runs one attempt at a time in a thread of this process: for debugging, and where no process can be started."""

import contextlib
import ctypes
import sys
import threading
import traceback
from collections.abc import Sequence
from pathlib import Path

from orchestrator.errors import LaunchError
from orchestrator.launchers.base import DEFAULT_REQUESTER, UNKNOWN, JobExit, MemoryEstimate, Requester
from orchestrator.launchers.slots.gpu_sharing import adjust_reservation
from orchestrator.launchers.slots.locks import HeldSlot
from orchestrator.launchers.slots.table import SlotTable, find_slots
from orchestrator.launchers.worker import main as worker
from orchestrator.launchers.worker.contract import KILLED, ExitCode, Slot


class Killed(BaseException):
    """Raised inside an attempt that is to end now; no ``except Exception`` catches it."""


class InlineJob:
    """An attempt in a thread of this process."""

    def __init__(self, folder: Path, held: HeldSlot, table: SlotTable) -> None:
        self.folder = folder
        self._held = held
        self._table = table
        self._stop_request = threading.Event()
        self._code = KILLED
        self._thread = threading.Thread(target=self._work, name=f"trial {folder.name}", daemon=True)
        self._thread.start()

    def poll(self) -> JobExit | None:
        if self._thread.is_alive():
            return None
        self._table.release(self._held, is_lost=self._code == ExitCode.DEVICE_LOST)
        return JobExit(self._code)

    def stop(self, *, force: bool = False) -> None:
        """With ``force`` it ends at the thread's next step in Python, since a thread cannot be killed."""
        self._stop_request.set()
        if force and self._thread.ident is not None and self._thread.is_alive():
            ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(self._thread.ident), ctypes.py_object(Killed))

    def join(self) -> None:
        self._thread.join()
        self.poll()

    def _work(self) -> None:
        try:
            with contextlib.redirect_stdout(sys.stderr):  # standard output belongs to --json
                self._code = worker.work(
                    self.folder,
                    self._held.slot,
                    self._stop_request.is_set,
                    on_peak=lambda peak_mb: adjust_reservation(self._held, peak_mb),
                )
        except Killed:
            self._code = KILLED
        except Exception:  # a process would die of it, such as of a full disk when it writes the record of its failure
            traceback.print_exc()
            self._code = ExitCode.FAILED


class InlineLauncher:
    """Owns one slot with all threads. What an attempt prints goes where this process prints."""

    def __init__(self, slot: Slot | None = None, *, locks: Path | None = None, requester: Requester = DEFAULT_REQUESTER) -> None:
        self._table = SlotTable((slot or find_slots(1)[0],), locks, requester=requester)
        self._job: InlineJob | None = None

    def free_slots(self, memory: MemoryEstimate = UNKNOWN) -> int:
        return self._table.count_free(memory)

    def fits(self, memory: MemoryEstimate) -> bool:
        return self._table.fits(memory)

    def line_up(self, estimates: Sequence[MemoryEstimate]) -> Requester | None:
        return self._table.line_up(estimates)

    def launch(self, folder: Path, memory: MemoryEstimate = UNKNOWN) -> InlineJob:
        held = self._table.take(memory)
        if held is None:
            raise LaunchError("no slot is free: inline runs one attempt at a time on this machine")
        self._job = InlineJob(folder, held, self._table)
        return self._job

    def close(self) -> None:
        self._table.line_up(())
        if self._job is not None:
            self._job.stop(force=True)
            self._job.join()
