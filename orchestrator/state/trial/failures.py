"""Kinds of failure, and which of them an error is."""

import errno
from collections.abc import Iterator
from enum import StrEnum

from trainers.errors import ConfigError, DataError, DivergedError


class FailureKind(StrEnum):
    """Why an attempt failed, as far as is known."""

    BAD_CONFIGURATION = "bad_configuration"
    BAD_DATA = "bad_data"
    DIVERGED = "diverged"
    """The loss is NaN or infinite."""
    EXCEPTION = "exception"
    """Any other error that the training raised."""
    OUT_OF_MEMORY = "out_of_memory"
    """The host's memory: the worker got none, or the kernel killed it."""
    CUDA_OUT_OF_MEMORY = "cuda_out_of_memory"
    """The GPU's memory."""
    SIGNAL = "signal"
    """Killed by something else than this program."""
    EXIT = "exit"
    """The process exited without a result, or its code tried to."""
    HANG = "hang"
    """No heartbeat for too long."""
    DISK_FULL = "disk_full"
    """No space left, or a quota used up: not the trial's fault, so it waits."""
    DEVICE_LOST = "device_lost"
    """The GPU is lost or broken."""

    @property
    def words(self) -> str:
        """For people: ``cuda out of memory``."""
        return str(self).replace("_", " ").replace("cuda", "CUDA")


_OF_CLASS = {
    ConfigError: FailureKind.BAD_CONFIGURATION,
    DataError: FailureKind.BAD_DATA,
    DivergedError: FailureKind.DIVERGED,
    SystemExit: FailureKind.EXIT,
}

_OF_NUMBER = {
    errno.ENOSPC: FailureKind.DISK_FULL,
    errno.EDQUOT: FailureKind.DISK_FULL,
    errno.ENOMEM: FailureKind.OUT_OF_MEMORY,
}

_TEXTS = {
    FailureKind.DISK_FULL: (
        "No space left on device",
        "Disk quota exceeded",
        "database or disk is full",
        # torch.save: the file took less than was written to it
        ". unexpected pos ",
        "PytorchStreamWriter failed writing",
        " requested and ",  # numpy: "9 requested and 7 written"
    ),
    FailureKind.DEVICE_LOST: (
        "Torch not compiled with CUDA enabled",  # not the trial's fault
        "No CUDA GPUs are available",
        "Found no NVIDIA driver",
        "CUDA driver initialization failed",
        "CUDA unknown error",
        "no CUDA-capable device is detected",
        "CUDA-capable device(s) is/are busy or unavailable",
        "uncorrectable ECC error",
        "GPU is lost",
        "CUDA error: unknown error",
        "CUDA error: hardware stack error",
        "driver shutting down",
    ),
    FailureKind.CUDA_OUT_OF_MEMORY: (
        "CUDA out of memory",
        "CUDA error: out of memory",
        "CUBLAS_STATUS_ALLOC_FAILED",
        "CUDNN_STATUS_ALLOC_FAILED",
        "CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
        "CUSOLVER_STATUS_ALLOC_FAILED",
        "CUFFT_ALLOC_FAILED",
    ),
    FailureKind.OUT_OF_MEMORY: (
        "Cannot allocate memory",  # of torch's allocator, of mmap and of fork
        "std::bad_alloc",
        "Insufficient memory",  # OpenCV
        "out of shared memory",  # of a loader, where /dev/shm is small
    ),
}
"""Messages of libraries that have no exception type or number for it, or whose error came from a data loader's process."""


def classify(error: BaseException) -> FailureKind:
    """The kind of failure of an error.

    A lack of memory, disk or device counts also where it caused another error, such as a model that could not be built.
    """
    for one in _chain(error):
        if (kind := _find_lack(one)) is not None:
            return kind
    return next((kind for cls, kind in _OF_CLASS.items() if isinstance(error, cls)), FailureKind.EXCEPTION)


def is_disk_full(error: BaseException) -> bool:
    """Whether something could not be written because the disk is full."""
    return classify(error) is FailureKind.DISK_FULL


def describe(error: BaseException) -> str:
    """An error in one line."""
    first_line = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {first_line}" if first_line else type(error).__name__


def _find_lack(error: BaseException) -> FailureKind | None:
    """The resource that an error says is missing."""
    if isinstance(error, MemoryError):
        return FailureKind.OUT_OF_MEMORY
    if isinstance(error, OSError) and error.errno in _OF_NUMBER:
        return _OF_NUMBER[error.errno]
    if any(cls.__name__ == "OutOfMemoryError" and cls.__module__ == "torch" for cls in type(error).__mro__):  # without torch
        return FailureKind.CUDA_OUT_OF_MEMORY
    text = str(error)
    return next((kind for kind, parts in _TEXTS.items() if any(part in text for part in parts)), None)


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error, and those that it was raised from or during, each once."""
    seen: set[int] = set()
    inner: BaseException | None = error
    while inner is not None and id(inner) not in seen:
        seen.add(id(inner))
        yield inner
        inner = inner.__cause__ or (None if inner.__suppress_context__ else inner.__context__)
