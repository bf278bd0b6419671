"""What one attempt gets of a node, in a cluster whose scheduler counts CPUs and GPUs."""

import math
import os
import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from orchestrator.launchers.slots.gpus import find_gpus, read_visible
from orchestrator.launchers.slots.table import AUTO_THREADS
from orchestrator.launchers.worker.contract import Slot


@dataclass(frozen=True)
class Share:
    """What one attempt gets of a node."""

    num_cpus: int
    num_gpus: float = 0.0

    @property
    def bundle(self) -> dict[str, float]:
        """The resources as Ray names them."""
        return {"CPU": self.num_cpus} | ({"GPU": self.num_gpus} if self.num_gpus else {})

    def count_in(self, resources: Mapping[str, float]) -> int:
        """How many such shares a node with these resources has."""
        return min(math.floor(resources.get(name, 0) / part + 1e-6) for name, part in self.bundle.items())


def choose_share(
    nodes: Iterable[Mapping[str, float]],
    num_threads: int | None,
    *,
    trials_per_gpu: int | None = None,
    environment: Mapping[str, str] = os.environ,
) -> Share:
    """What each attempt gets in a cluster of such nodes: a GPU or a part of one if there are any, else one core.

    num_threads: CPUs beside it; None: a GPU's part of its node's CPUs, on the node with the fewest.
    environment: an empty CUDA_VISIBLE_DEVICES means no GPUs, as on one machine.
    """
    with_gpu = [node for node in nodes if node.get("GPU", 0) >= 1]
    if not with_gpu or read_visible(environment) == []:
        return Share(num_threads or 1)
    each = trials_per_gpu or 1
    fewest = min(int(node.get("CPU", 0) // (node["GPU"] * each)) for node in with_gpu)
    part = math.floor(10_000 / each) / 10_000  # as finely as Ray counts; rounded up, the last would find no room
    return Share(num_threads or max(1, min(AUTO_THREADS, fewest)), part)


def own_slot(num_threads: int, *, has_gpu: bool) -> Slot:
    """What the scheduler has assigned to this process; a GPU by its UUID, since indices differ between nodes."""
    host = socket.gethostname()
    gpus = find_gpus() if has_gpu else ()
    if not gpus:
        return Slot(f"{host}-cpu", "", num_threads)
    return Slot(f"{host}-{gpus[0].uuid}", gpus[0].uuid, num_threads, gpus[0].memory_mb, most_per_gpu=None)
