"""This machine: what is installed, which GPUs there are and whether torch can use them, room to write."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from packaging.requirements import Requirement

from orchestrator.errors import LaunchError
from orchestrator.launchers.slots.driver import Gpu, GpuListing, ask_driver
from orchestrator.launchers.slots.gpus import find_gpus
from orchestrator.launchers.slots.locks import make_shared, slots_folder
from orchestrator.operations.doctor.findings import Finding, doubtful, well, wrong
from orchestrator.spec.sections import LimitsSpec
from orchestrator.state.disk import free_gb
from orchestrator.state.home import Home
from orchestrator.state.units import format_gb

LITTLE_GB = 20.0
"""Of free disk: what a sweep of a few dozen trials writes."""

BUSY_MB = 1000
"""Of a GPU's memory: more than a screen takes."""

ASK_TORCH = "import torch; print(torch.version.cuda, torch.cuda.is_available() and torch.cuda.device_count())"


def check_packages() -> Iterator[Finding]:
    """Whether what is installed is what this orchestrate was made for."""
    told = f"orchestrate {importlib.metadata.version('orchestrate')}, Python {platform.python_version()}"
    lacking = [fault for text in importlib.metadata.requires("orchestrate") or () if (fault := _find_fault(Requirement(text)))]
    if lacking:
        yield doubtful("packages", f"{told}; {'; '.join(lacking)}", "Install orchestrate again: `make setup`, or pip install.")
    else:
        names = ("torch", "mlflow", "optuna")
        yield well("packages", ", ".join([told, *(f"{name} {importlib.metadata.version(name)}" for name in names)]))


def _find_fault(requirement: Requirement) -> str | None:
    if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
        return None
    try:
        found = importlib.metadata.version(requirement.name)
    except importlib.metadata.PackageNotFoundError:
        return f"{requirement.name} is not installed"
    return (
        None
        if requirement.specifier.contains(found, prereleases=True)
        else f"{requirement.name} {found} is not {requirement.specifier}"
    )


def check_gpus(list_gpus: Callable[[], GpuListing] = ask_driver) -> Iterator[Finding]:
    """What the driver lists, and whether torch sees as many; in a process of its own, which ends with what it took."""
    try:
        gpus = find_gpus(list_gpus=list_gpus)
    except LaunchError as error:
        yield wrong("GPUs", str(error), "Until then sweeps do not start; CUDA_VISIBLE_DEVICES= makes them use the CPU.")
        return
    if not gpus:
        yield well("GPUs", f"none: trials run on {os.cpu_count()} cores")
        return
    yield _compare_with_torch(gpus)
    if busy := [gpu for gpu in gpus if gpu.used_mb > BUSY_MB]:
        used = ", ".join(f"{gpu.uuid}: {gpu.used_mb} of {gpu.memory_mb} MB" for gpu in busy)
        yield doubtful("GPU memory", f"in use already: {used}", "By whom, `nvidia-smi` says; trials there have only the rest.")


def _compare_with_torch(gpus: tuple[Gpu, ...]) -> Finding:
    asked = subprocess.run([sys.executable, "-c", ASK_TORCH], capture_output=True, text=True, check=False)
    told = asked.stdout.split()
    if asked.returncode or len(told) != 2:
        reason = (asked.stderr.strip().splitlines() or ["no answer"])[-1]
        return wrong("GPUs", f"{len(gpus)}, but torch cannot be imported: {reason}", "Install torch anew.")
    build, seen = told
    has_parts = any(gpu.uuid.startswith("MIG") for gpu in gpus)  # of which CUDA shows a process one at a time
    if seen == str(len(gpus)) or (has_parts and seen not in ("0", "False")):
        sizes = ", ".join("a part (MIG)" if gpu.uuid.startswith("MIG") else f"{gpu.memory_mb} MB" for gpu in gpus)
        return well("GPUs", f"{len(gpus)} ({sizes}), torch for CUDA {build}")
    advice = (
        "Install a torch for CUDA." if build == "None" else "Is the driver too old for this torch? `nvidia-smi` says what it can."
    )
    return wrong("GPUs", f"the driver lists {len(gpus)}, torch (CUDA {build}) sees {seen}", advice)


def check_disk(home: Home) -> Iterator[Finding]:
    """Whether the home and the folder of the slots can be written to, and how much room there is."""
    for subject, folder, make in (("home", home.root, _make), ("slots", slots_folder(), make_shared)):
        try:
            make(folder)
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as error:
            name = "ORCHESTRATE_HOME" if subject == "home" else "ORCHESTRATE_SLOTS"
            yield wrong(subject, f"{folder}: {error.strerror}", f"Let {name} name a folder that may be written to.")
            return
    yield _judge_room(home.root)


def _make(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)


def _judge_room(folder: Path) -> Finding:
    found, floor = free_gb(folder), LimitsSpec().free_disk_gb
    told = f"{format_gb(found)} free in {folder}"
    if found < floor:
        return wrong(
            "disk",
            f"{told}; no trial starts below {format_gb(floor)}",
            "`orchestrate clean` frees some, or move ORCHESTRATE_HOME.",
        )
    if found < LITTLE_GB:
        return doubtful("disk", told, "That is little for a sweep: `orchestrate sweep FILE --plan` says what one needs.")
    return well("disk", told)
