"""Other users of this machine, whom only root can become."""

from __future__ import annotations

import os
from collections.abc import Callable


def run_as(uid: int, function: Callable[[], int]) -> int:
    """Run a program as another user; returns its exit code."""
    pid = os.fork()
    if pid == 0:
        code = 99
        try:
            os.setgid(uid)
            os.setuid(uid)
            code = function()
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
