"""This machine: the cores that may be used, and the versions of the libraries that results depend on."""

import importlib.metadata
import math
import os
import platform
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

import psutil

CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")
"""A container's quota, as ``<microseconds or max> <period in microseconds>``."""

LIBRARIES = ("torch", "segmentation-models-pytorch", "timm", "albumentations", "numpy", "opencv-python-headless")
"""Their versions are kept with each result."""

PREFIX = "version/"
"""Of the facts that hold versions."""


def library_versions() -> dict[str, str]:
    """``version/<library>`` -> version, of those that are installed under that name."""
    versions = {f"{PREFIX}python": platform.python_version()}
    for name in LIBRARIES:
        with suppress(importlib.metadata.PackageNotFoundError):  # OpenCV comes under several names
            versions[PREFIX + name] = importlib.metadata.version(name)
    return versions


def describe_drift(results: Iterable[Mapping[str, str]], today: Mapping[str, str]) -> str | None:
    """One line if results were made with other versions than today's; None if all agree.

    results: versions of each result that is reused. A library that only one side knows is ignored.
    """
    drifts = [{(name, found) for name, found in versions.items() if found != today.get(name, found)} for versions in results]
    if not any(drifts):
        return None
    changes = [f"{name.removeprefix(PREFIX)} {found} (now {today[name]})" for name, found in sorted(set().union(*drifts))]
    return (
        f"{sum(map(bool, drifts))} of {len(drifts)} reused results were made with other versions: {', '.join(changes)}. "
        "Versions are not part of a trial's key, so nothing is trained again"
    )


def count_cores(quota: Path = CPU_QUOTA) -> int:
    """Physical cores that this process may use, by its affinity and a container's quota, rounded down."""
    limits = [len(allowed_cpus()), psutil.cpu_count(logical=False) or math.inf]
    with suppress(OSError):  # no container, or the first version of cgroups
        allowed_us, period_us = quota.read_text().split()
        limits.append(float(allowed_us.replace("max", "inf")) // int(period_us))
    return max(1, int(min(limits)))


def allowed_cpus() -> list[int]:
    """Numbers of the CPUs that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))
