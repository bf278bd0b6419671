"""exit_codes."""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """What a worker's exit code means. A negative code is the signal that killed it; 5 is process.DISPATCHER_GONE.

    Those that are believed without a result are high: a loss or a library that ends the process by itself takes small ones.
    STOPPED and LOCKED are only where the attempt's record does not say otherwise: believed, they have it begun again for ever.
    """

    COMPLETE = 0
    FAILED = 1
    STOPPED = 83
    LOCKED = 84
    DISK_FULL = 86
    DEVICE_LOST = 87
    """FAILED, for want of its GPU."""
