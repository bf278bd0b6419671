"""Entry of a scheduled sweep's process: bound to the life of its scheduler, then an ordinary `orchestrate`.

By way of a program of its own, since what is done between fork and exec of a process with threads may hang.
"""

from __future__ import annotations

import os
import sys
import threading

from orchestrator.cli import main
from orchestrator.launchers.worker.process import DISPATCHER_GONE, die_with_parent


def _end_with(pipe: int) -> None:
    """End this process when the scheduler's end of the pipe is closed; it works wherever there is no prctl."""
    while os.read(pipe, 1):
        pass
    os._exit(DISPATCHER_GONE)


if __name__ == "__main__":
    die_with_parent(int(sys.argv.pop(1)))
    threading.Thread(target=_end_with, args=(os.dup(0),), name="watch-scheduler", daemon=True).start()
    main()
