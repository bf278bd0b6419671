"""How a worker's process reports its end."""

from __future__ import annotations

from enum import IntEnum

KILLED = -9
"""The exit code of a process that was killed, as in subprocess."""


class ExitCode(IntEnum):
    """The exit codes of a worker; a negative one is the signal that killed it, and 5 is process.DISPATCHER_GONE.

    Codes that count without a result are high, because a library that ends the process by itself uses small ones. STOPPED and
    LOCKED count only if the attempt's record says nothing else: otherwise the trial would be started again for ever.
    """

    COMPLETE = 0
    FAILED = 1
    STOPPED = 83
    LOCKED = 84
    DISK_FULL = 86
    DEVICE_LOST = 87
    """FAILED because its GPU was lost."""
