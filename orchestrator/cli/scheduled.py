"""Entry point of a scheduled sweep's process: it dies with its scheduler, and is an ordinary `orchestrate` otherwise.

It is a separate program, because code between fork and exec of a process with threads may hang.
"""

import os
import sys
import threading

from orchestrator.cli import main
from orchestrator.launchers.worker.process import DISPATCHER_GONE, die_with_parent


def _end_with(pipe: int) -> None:
    """End this process when the scheduler's end of the pipe closes; this works without prctl too."""
    while os.read(pipe, 1):
        pass
    os._exit(DISPATCHER_GONE)


if __name__ == "__main__":
    die_with_parent(int(sys.argv.pop(1)))
    threading.Thread(target=_end_with, args=(os.dup(0),), name="watch-scheduler", daemon=True).start()
    main()
