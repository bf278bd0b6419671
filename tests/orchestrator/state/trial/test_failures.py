"""Which kind of failure an error is."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from orchestrator.state.trial.failures import FailureKind, classify, describe, is_disk_full
from trainers.errors import ConfigError, DataError, DivergedError, TrainerError


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (ConfigError("no such arch"), FailureKind.BAD_CONFIGURATION),
        (DataError("no pixel"), FailureKind.BAD_DATA),
        (DivergedError("nan"), FailureKind.DIVERGED),
        (TrainerError("another training's checkpoint"), FailureKind.EXCEPTION),
        (ValueError("no"), FailureKind.EXCEPTION),
        (MemoryError(), FailureKind.OUT_OF_MEMORY),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), FailureKind.OUT_OF_MEMORY),
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: Bus error. ... out of shared memory."), "out_of_memory"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB."), FailureKind.CUDA_OUT_OF_MEMORY),
        (RuntimeError("CUDA error: out of memory"), FailureKind.CUDA_OUT_OF_MEMORY),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), FailureKind.CUDA_OUT_OF_MEMORY),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), "cuda_out_of_memory"),
        (RuntimeError("No CUDA GPUs are available"), FailureKind.DEVICE_LOST),
        (AssertionError("Torch not compiled with CUDA enabled"), FailureKind.DEVICE_LOST),
        (RuntimeError("CUDA error: uncorrectable ECC error encountered"), FailureKind.DEVICE_LOST),
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), FailureKind.DISK_FULL),
        (OSError(errno.EDQUOT, os.strerror(errno.EDQUOT)), FailureKind.DISK_FULL),
        (OSError("Caught OSError in DataLoader worker process 0.\n... [Errno 28] No space left on device"), "disk_full"),
        (PermissionError(errno.EACCES, "Permission denied"), FailureKind.EXCEPTION),
    ],
)
def test_errors_are_classified(error: Exception, kind: str) -> None:
    """By type or number if there is one, else by the message."""
    assert classify(error) is FailureKind(kind)


def raise_from(cause: Exception) -> Exception:
    """Raise an error from another, as libraries do."""
    try:
        try:
            raise cause
        except Exception as inner:
            raise ConfigError("arch 'FPN' cannot take pictures of 32x64") from inner
    except ConfigError as error:
        return error


def test_a_wrapped_lack_of_memory_counts() -> None:
    """A model that gets no memory is not a bad configuration; one with a wrong shape is."""
    assert classify(raise_from(RuntimeError("CUDNN_STATUS_ALLOC_FAILED"))) is FailureKind.CUDA_OUT_OF_MEMORY
    assert classify(raise_from(MemoryError())) is FailureKind.OUT_OF_MEMORY
    assert classify(raise_from(RuntimeError("size mismatch"))) is FailureKind.BAD_CONFIGURATION


def test_a_circle_of_causes_ends() -> None:
    """Errors that are each other's cause are visited once."""
    one, other = ValueError("one"), ValueError("other")
    one.__cause__, other.__cause__ = other, one
    assert classify(one) is FailureKind.EXCEPTION


@pytest.mark.parametrize(
    "allocate",
    [
        lambda: torch.empty(10**15),
        lambda: np.empty(10**15),
        lambda: bytearray(10**15),
    ],
)
def test_lack_of_memory_is_recognized(allocate: Callable[[], object]) -> None:
    """In the messages of torch, numpy and Python."""
    with pytest.raises((MemoryError, RuntimeError)) as caught:
        allocate()
    assert classify(caught.value) is FailureKind.OUT_OF_MEMORY


def write_safetensors(folder: Path) -> None:
    """As save_best does."""
    from safetensors.torch import save_file

    save_file({"weights": torch.zeros(10**6)}, folder / "file")


@pytest.mark.parametrize(
    "write",
    [
        lambda folder: torch.save(torch.zeros(10**6), folder / "file"),
        write_safetensors,
        lambda folder: np.save(folder / "file.npy", np.zeros(10**6)),
        lambda folder: (folder / "file").write_text("x" * 4 * 10**6),
    ],
)
def test_a_full_disk_is_recognized(small_disk: Path, write: Callable[[Path], object]) -> None:
    """In the messages of torch, safetensors, numpy and Python."""
    with pytest.raises(Exception) as caught:  # noqa: PT011 - what it is, is the question
        write(small_disk)
    assert is_disk_full(caught.value)


def test_an_error_in_one_line() -> None:
    """Its type, and the first line of its message, if there is one."""
    assert describe(ValueError("one\ntwo")) == "ValueError: one"
    assert describe(MemoryError()) == "MemoryError"
