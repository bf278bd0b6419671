"""The driver's answers: NVML as a double of the library gives them, nvidia-smi as a script on the path."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pynvml
import pytest

from orchestrator.errors import LaunchError
from orchestrator.launchers.slots.driver import Gpu, GpuListing, ask_driver, ask_nvidia_smi, ask_nvml
from orchestrator.launchers.slots.gpus import find_gpus
from orchestrator.launchers.slots.table import find_slots
from orchestrator.launchers.worker.contract import Slot
from orchestrator.state.machine import count_cores

LISTING = "0, GPU-aaaa, 81559\n1, GPU-bbbb, 24564\n2, GPU-cccc, [N/A]\n"
B, C = Gpu("GPU-bbbb", 24564), Gpu("GPU-cccc", None)

Answer = object
"""What a function of the library returns; an exception is raised."""


class Library:
    """Stands in for the module pynvml, whose errors and constants it has. gpus: by index, each function's answer."""

    def __init__(self, *gpus: Mapping[str, Answer] | Exception) -> None:
        self.gpus = gpus
        self.num_open = 0

    def __getattr__(self, name: str) -> Any:
        if name.startswith("NVMLError") or name == "nvmlMemory_v2":
            return getattr(pynvml, name)
        assert hasattr(pynvml, name), f"pynvml has no {name}"
        assert self.num_open == 1, f"{name} is called before nvmlInit or after nvmlShutdown"
        return lambda handle, *_arguments, **_options: give(handle[name])

    def nvmlInit(self) -> None:
        self.num_open += 1

    def nvmlShutdown(self) -> None:
        self.num_open -= 1

    def nvmlDeviceGetCount(self) -> int:
        return len(self.gpus)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> Answer:
        return give(self.gpus[index])

    def nvmlDeviceGetMigDeviceHandleByIndex(self, handle: Mapping[str, Any], index: int) -> Answer:
        return give(handle["parts"][index])


def give(answer: Answer) -> Answer:
    """Return it, or raise it."""
    if isinstance(answer, Exception):
        raise answer
    return answer


def error(name: str) -> Exception:
    """As the library raises it."""
    return pynvml.NVMLError(getattr(pynvml, f"NVML_ERROR_{name}"))


def gpu(uuid: str, total_mb: int = 81559, used_mb: int = 3, **others: Answer) -> dict[str, Answer]:
    """The answers for a GPU that is not partitioned."""
    return {
        "nvmlDeviceGetUUID": uuid,
        "nvmlDeviceGetName": "NVIDIA H100",
        "nvmlDeviceGetMemoryInfo": SimpleNamespace(total=total_mb * 2**20, used=used_mb * 2**20),
        "nvmlDeviceGetMigMode": error("NOT_SUPPORTED"),
        **others,
    }


def test_nvml_lists_the_gpus() -> None:
    """With their UUIDs, names and MiB; the library is closed again, so that no GPU is kept awake."""
    library = Library(gpu("GPU-aaaa"), gpu("GPU-bbbb", 24564, 0))
    listing = ask_nvml(library)
    assert listing == GpuListing({"0": Gpu("GPU-aaaa", 81559, 3), "1": Gpu("GPU-bbbb", 24564)})
    assert [found.name for found in listing.by_index.values()] == ["NVIDIA H100"] * 2
    assert library.num_open == 0


@pytest.mark.parametrize("name", ["GPU_IS_LOST", "RESET_REQUIRED", "UNKNOWN"])
def test_what_is_left_beside_a_gpu_that_nvml_has_lost_is_used(name: str, caplog: pytest.LogCaptureFixture) -> None:
    """Whichever call fails; the GPU keeps its number, and the log names it."""
    questions = ("nvmlDeviceGetUUID", "nvmlDeviceGetMemoryInfo", "nvmlDeviceGetMigMode")
    for lost in (error(name), *(gpu("GPU-aaaa", **{question: error(name)}) for question in questions)):
        listing = ask_nvml(Library(lost, gpu("GPU-bbbb", 24564, 0)))
        assert listing.by_index == {"1": B}
        assert find_gpus({"CUDA_VISIBLE_DEVICES": "0,1"}, list_gpus=lambda listing=listing: listing) == (B,)  # type: ignore[misc]
        assert f"GPU 0: {error(name)}" in caplog.text
        caplog.clear()


def test_nvml_lists_the_parts_of_a_partitioned_gpu() -> None:
    """Places that a larger part leaves empty are skipped; a GPU without MIG has no parts."""
    parts = [{"nvmlDeviceGetUUID": "MIG-1111"}, error("NOT_FOUND"), {"nvmlDeviceGetUUID": "MIG-2222"}]
    cut = gpu("GPU-aaaa", nvmlDeviceGetMigMode=[1, 1], nvmlDeviceGetMaxMigDeviceCount=3, parts=parts)
    listing = ask_nvml(Library(cut, gpu("GPU-bbbb", 24564, 0, nvmlDeviceGetMigMode=[0, 1])))
    assert listing.parts == {"GPU-aaaa": (Gpu("MIG-1111", None), Gpu("MIG-2222", None))}
    assert find_gpus({}, list_gpus=lambda: listing) == (*listing.parts["GPU-aaaa"], B)


@pytest.mark.parametrize("name", ["NOT_SUPPORTED", "NO_PERMISSION"])
def test_memory_that_nvml_does_not_report_is_unknown(name: str) -> None:
    """Such as of a GPU that shares the host's memory, or of a partitioned one for ordinary users; the GPU stays listed."""
    assert ask_nvml(Library(gpu("GPU-cccc", nvmlDeviceGetMemoryInfo=error(name)))).by_index == {"0": C}


def test_an_error_of_nvml_itself_closes_it() -> None:
    """And is raised, so that nvidia-smi is asked instead."""
    library = Library()
    library.nvmlDeviceGetCount = lambda: give(error("UNKNOWN"))  # type: ignore[method-assign, assignment, return-value]
    with pytest.raises(pynvml.NVMLError):
        ask_nvml(library)
    assert library.num_open == 0


def test_without_the_library_nvidia_smi_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container that has only the command; it may be asked repeatedly, even if it fails."""
    monkeypatch.setattr(pynvml, "nvmlInit", lambda: give(error("LIBRARY_NOT_FOUND")))
    put_nvidia_smi(tmp_path, monkeypatch, f"printf '{LISTING}'".replace("\n", "\\n"))
    assert [list(ask_driver().by_index) for _ in range(2)] == [["0", "1", "2"]] * 2
    put_nvidia_smi(tmp_path, monkeypatch, "echo Driver/library version mismatch; exit 18")
    for _ in range(2):
        with pytest.raises(LaunchError, match="version mismatch"):
            ask_driver()


def test_a_driver_that_hangs_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor asked again until it has answered: a call into it cannot be interrupted."""
    calls, answer = [], threading.Event()

    def hang() -> None:
        calls.append(threading.current_thread())
        answer.wait()
        give(error("LIBRARY_NOT_FOUND"))

    monkeypatch.setattr(pynvml, "nvmlInit", hang)
    put_nvidia_smi(tmp_path, monkeypatch, f"printf '{LISTING}'".replace("\n", "\\n"))
    for _ in range(3):
        with pytest.raises(LaunchError, match=r"has not answered for 0\.05 s"):
            ask_driver(answer_s=0.05)
    assert len(calls) == 1
    assert calls[0].daemon
    answer.set()
    calls[0].join()
    assert list(ask_driver().by_index) == ["0", "1", "2"]


def put_nvidia_smi(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """Put a program of that name first on the path."""
    program = folder / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


def test_gpus_are_asked_of_the_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through nvidia-smi, so that this process never touches CUDA; one slot per GPU, the cores divided."""
    put_nvidia_smi(tmp_path, monkeypatch, f"printf '{LISTING}'".replace("\n", "\\n"))
    slots = find_slots(environment={}, list_gpus=ask_nvidia_smi)
    threads = max(1, count_cores() // 3)
    assert slots[1] == Slot("GPU-bbbb-0", "GPU-bbbb", threads, 24564)
    assert [slot.device for slot in slots] == ["cuda"] * 3


def test_a_broken_driver_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Training silently on the CPU would cost days."""
    put_nvidia_smi(tmp_path, monkeypatch, "echo Driver/library version mismatch; exit 18")
    with pytest.raises(LaunchError, match="version mismatch"):
        find_slots(environment={}, list_gpus=ask_nvidia_smi)


def test_what_is_left_beside_a_lost_gpu_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """nvidia-smi fails but lists the others, or prints the loss in place of fields; the log names it."""
    lost = "Unable to determine the device handle for GPU 0000:3B:00.0: GPU is lost.  Reboot the system to recover this GPU"
    put_nvidia_smi(tmp_path, monkeypatch, f"echo '0, GPU-aaaa, 81559, 3'; echo '{lost}'; exit 15")
    assert find_gpus({}, list_gpus=ask_nvidia_smi) == (Gpu("GPU-aaaa", 81559, 3),)
    assert lost in caplog.text
    for complaint in ("[GPU is lost]", "[Unknown Error]", "[GPU requires reset]"):
        put_nvidia_smi(tmp_path, monkeypatch, f"echo '0, {complaint}, {complaint}'; echo '1, GPU-bbbb, 24564'")
        assert find_gpus({}, list_gpus=ask_nvidia_smi) == (B,)


def test_each_part_of_a_partitioned_gpu_counts_as_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """CUDA would show only the first part to every trial on the GPU."""
    listing = """GPU 0: NVIDIA A100-SXM4-40GB (UUID: GPU-aaaa)
  MIG 3g.20gb     Device  0: (UUID: MIG-1111)
  MIG 1g.5gb      Device  1: (UUID: MIG-GPU-aaaa/9/0)
GPU 1: NVIDIA A100-SXM4-40GB (UUID: GPU-bbbb)
"""
    put_nvidia_smi(tmp_path, monkeypatch, f"[ $1 = -L ] && echo '{listing}' || printf '{LISTING}'")
    parts = (Gpu("MIG-1111", None), Gpu("MIG-GPU-aaaa/9/0", None))
    assert find_gpus({}, list_gpus=ask_nvidia_smi) == (*parts, B, C)
    assert find_gpus({"CUDA_VISIBLE_DEVICES": "1,0"}, list_gpus=ask_nvidia_smi) == (B, *parts)
    assert find_gpus({"CUDA_VISIBLE_DEVICES": "MIG-1111"}, list_gpus=ask_nvidia_smi) == parts[:1]
    assert find_gpus({"CUDA_VISIBLE_DEVICES": "0,MIG-1111"}, list_gpus=ask_nvidia_smi) == parts
    slots = find_slots(environment={}, list_gpus=ask_nvidia_smi)
    assert [slot.name for slot in slots] == [f"{gpu.uuid}-0" for gpu in (*parts, B, C)]


def test_a_gpu_without_nvidia_smi_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container that lacks it: the CPU is used only if there is no GPU."""
    monkeypatch.setenv("PATH", str(tmp_path))
    assert ask_nvidia_smi(devices=tmp_path) == GpuListing({})
    (tmp_path / "nvidiactl").touch()
    assert ask_nvidia_smi(devices=tmp_path) == GpuListing({})
    (tmp_path / "nvidia3").touch()
    with pytest.raises(LaunchError, match=r"nvidia3.* neither NVML nor nvidia-smi"):
        ask_nvidia_smi(devices=tmp_path)


def assert_agreement(one: GpuListing, other: GpuListing) -> None:
    """The same GPUs by the same numbers, with the same memory up to rounding, and about the same use of it."""
    assert one.by_index.keys() == other.by_index.keys()
    assert one.parts == other.parts
    for index, gpu in one.by_index.items():
        same = other.by_index[index]
        assert (gpu.uuid, gpu.name) == (same.uuid, same.name)
        assert gpu.memory_mb == pytest.approx(same.memory_mb, abs=1)
        assert gpu.used_mb == pytest.approx(same.used_mb, abs=64)


def test_both_ways_give_the_same_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two GPUs, by the doubles."""
    put_nvidia_smi(tmp_path, monkeypatch, "echo '0, GPU-aaaa, 81559, 3, NVIDIA H100'; echo '1, GPU-bbbb, 24564, 0, NVIDIA H100'")
    assert_agreement(ask_nvml(Library(gpu("GPU-aaaa"), gpu("GPU-bbbb", 24564, 0))), ask_nvidia_smi())


@pytest.mark.gpu
@pytest.mark.skipif(shutil.which("nvidia-smi") is None, reason="needs nvidia-smi and a GPU")
def test_nvml_and_nvidia_smi_agree() -> None:
    """On the real GPUs of this machine."""
    listing = ask_nvml()
    assert listing.by_index
    assert_agreement(listing, ask_nvidia_smi())
