"""Runs attempts on a Ray cluster: each as a task, in a fresh process on any node with room for it."""

import contextlib
import logging
import math
import os
import signal
import socket
import sys
import time
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import OutOfMemoryError, RayError, RayTaskError
from ray.job_config import JobConfig
from ray.util.placement_group import PlacementGroup, placement_group, placement_group_table, remove_placement_group
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy, PlacementGroupSchedulingStrategy

from orchestrator.errors import LaunchError
from orchestrator.launchers.base import UNKNOWN, JobExit, MemoryEstimate
from orchestrator.launchers.ray_resources import choose_share, own_slot
from orchestrator.launchers.worker import main as worker
from orchestrator.launchers.worker.contract import KILLED, ExitCode
from orchestrator.state.trial.folder import TrialFile

LOOK_S = 0.5
"""Between two questions to the cluster where the slots are."""

GROW_S = 15.0
"""Between two questions whether nodes have joined."""

FIRST_SLOTS_S = 5.0
"""How long a cluster may take to place the first slots, before they are counted."""

DOUBT_S = 30.0
"""After a loss no slot is requested for this long: the cluster itself may not know yet which nodes are gone."""

CHECK_S = 120.0
"""How long a node may take to say whether it can write to a trial's folder: it imports this program for it."""


class StopRequest(IntEnum):
    """How an attempt is asked to stop."""

    NONE, STOP, KILL = range(3)


@dataclass
class RaySlot:
    """Resources that the cluster reserves for this launcher.

    node: id of their node; None while the cluster has no room. name: of the node, for people.
    """

    group: PlacementGroup
    node: str | None = None
    name: str = ""
    is_lost: bool = False
    is_taken: bool = False
    is_broken: bool = False


class RayJob:
    """An attempt as a Ray task. ``stop`` may be called from a signal handler or another thread; ``poll`` then carries it out."""

    def __init__(self, folder: Path, ref: ray.ObjectRef[Any], slot: RaySlot) -> None:
        self.folder = folder
        self._ref = ref
        self._slot = slot
        self._node = slot.name
        self._asked = self._sent = StopRequest.NONE
        self._exit: JobExit | None = None

    def poll(self) -> JobExit | None:
        if self._exit is None:
            if self._asked > self._sent:
                self._sent = self._asked
                if self._sent is StopRequest.KILL:
                    ray.cancel(self._ref, force=True)
                else:
                    # not Ray's interrupt: it would block a worker stuck in C code, and the kill after it
                    (self.folder / TrialFile.STOP).touch()
            if ray.wait([self._ref], timeout=0)[0]:
                self._exit = self._read()
                (self.folder / TrialFile.STOP).unlink(missing_ok=True)
                self._slot.is_broken = self._exit.code == ExitCode.DEVICE_LOST
                self._slot.is_taken = False
        return self._exit

    def stop(self, *, force: bool = False) -> None:
        self._asked = max(self._asked, StopRequest.KILL if force else StopRequest.STOP)

    def _read(self) -> JobExit:
        try:
            return JobExit(ray.get(self._ref))
        except RayTaskError as error:
            lines = str(error).strip().splitlines()
            return JobExit(ExitCode.FAILED, f"the worker could not begin: {lines[-1]} (on {self._node})")
        except RayError as error:  # the process or its node is gone
            if self._sent is StopRequest.KILL:
                return JobExit(KILLED)
            self._slot.is_lost = True
            said = (str(error).strip() or type(error).__name__).splitlines()[0].partition(". ")[0]
            return JobExit(
                KILLED, f"Ray has lost its process on {self._node}: {said}", lacked_memory=isinstance(error, OutOfMemoryError)
            )


class RayLauncher:
    """Reserves slots in the Ray cluster at ``address`` until ``close``. Used by one thread.

    A slot is a placement group, so that a launched attempt starts at once, whoever else uses the cluster. The slots of a lost
    node are given up; a node that joins adds its own. num_slots: at most. num_threads: CPUs of each.

    Raises:
        LaunchError: there is no such cluster, or no node of it is large enough for one attempt.
    """

    def __init__(
        self,
        num_slots: int | None = None,
        num_threads: int | None = None,
        *,
        trials_per_gpu: int | None = None,
        address: str | None = None,
    ) -> None:
        self._address = address or os.environ.get("RAY_ADDRESS") or "auto"
        self._most = num_slots
        self._slots: list[RaySlot] = []
        self._jobs: list[RayJob] = []
        self._checked_nodes: set[str] = set()
        self._looked_s = self._grown_s = -math.inf
        self._connection = contextlib.ExitStack()
        self._connect()
        nodes = [node["Resources"] for node in _live_nodes()]
        self._share = choose_share(nodes, num_threads, trials_per_gpu=trials_per_gpu)
        if not any(map(self._share.count_in, nodes)):
            found = "; ".join(f"{node.get('CPU', 0):g} CPUs, {node.get('GPU', 0):g} GPUs" for node in nodes)
            self._connection.close()
            asked = f"no node of the Ray cluster has room for a trial, which asks for {self._share.bundle}"
            raise LaunchError(f"{asked}. Its nodes: {found}. Lower resources.threads_per_slot, or start nodes with more.")

    def free_slots(self, memory: MemoryEstimate = UNKNOWN) -> int:
        self._look()
        if self._slots and all(slot.is_broken for slot in self._slots):
            raise LaunchError("no GPU is left: attempts have lost theirs on every slot of the Ray cluster. See its nodes.")
        return len(self._find_free())

    def launch(self, folder: Path, memory: MemoryEstimate = UNKNOWN) -> RayJob:
        self._look()
        slot = next(iter(self._find_free()), None)
        if slot is None:
            raise LaunchError(f"no slot is free: {len(self._slots)} are this sweep's in the Ray cluster")
        self._check_node(slot, folder)
        task = ray.remote(max_calls=1, max_retries=0)(_attempt).options(
            name=f"trial {folder.name}",
            num_cpus=self._share.num_cpus,
            num_gpus=self._share.num_gpus,
            scheduling_strategy=PlacementGroupSchedulingStrategy(slot.group),
        )
        (folder / TrialFile.STOP).unlink(missing_ok=True)  # of a dispatcher that died
        job = RayJob(folder, task.remote(str(folder), self._share.num_cpus), slot)
        slot.is_taken = True
        self._jobs = [one for one in self._jobs if one.poll() is None] + [job]
        return job

    def close(self) -> None:
        for job in self._jobs:
            job.stop(force=True)
        while any(job.poll() is None for job in self._jobs):
            time.sleep(0.01)
        for slot in self._slots:
            remove_placement_group(slot.group)
        self._jobs, self._slots = [], []
        self._looked_s = self._grown_s = -math.inf
        self._connection.close()

    def _connect(self) -> None:
        """Join the cluster, unless this process is in it; again after ``close``."""
        if not ray.is_initialized():
            _join_cluster(self._address)
            self._connection.enter_context(contextlib.redirect_stdout(sys.stderr))  # for --json: Ray prints news
            self._connection.callback(ray.shutdown)

    def _find_free(self) -> list[RaySlot]:
        return [one for one in self._slots if one.node and not (one.is_taken or one.is_broken or one.is_lost)]

    def _look(self) -> None:
        """At intervals, ask where the slots are, and reserve those of nodes that have joined."""
        now_s = time.monotonic()
        if now_s - self._grown_s >= GROW_S:
            self._grown_s = now_s
            self._grow()
        if now_s - self._looked_s >= LOOK_S:
            self._looked_s = now_s
            self._locate()

    def _grow(self) -> None:
        is_first = not self._slots
        self._connect()
        wanted = sum(self._share.count_in(node["Resources"]) for node in _live_nodes())
        wanted = min(wanted, self._most or wanted)
        self._slots += [RaySlot(placement_group([self._share.bundle])) for _ in range(wanted - len(self._slots))]
        deadline_s = time.monotonic() + FIRST_SLOTS_S
        while is_first and time.monotonic() < deadline_s:
            self._locate()
            if all(slot.node for slot in self._slots):
                break
            time.sleep(0.02)

    def _locate(self) -> None:
        """Ask where the slots are; give up those of a node that is gone, where a task would wait for ever."""
        names = {node["NodeID"]: f"{node['NodeManagerHostname']}/{node['NodeID'][:8]}" for node in _live_nodes()}
        table = placement_group_table()
        for slot in list(self._slots):
            known = table.get(slot.group.id.hex(), {})
            node = known["bundles_to_node_id"].get(0) if known.get("state") == "CREATED" else None
            if not slot.is_taken and (slot.is_lost or (slot.node and node != slot.node)):
                remove_placement_group(slot.group)
                self._slots.remove(slot)
                self._grown_s = time.monotonic() + DOUBT_S - GROW_S
            elif node in names:
                slot.node, slot.name = node, names[node]

    def _check_node(self, slot: RaySlot, folder: Path) -> None:
        """Check once that a node can run this program and work in ``folder``."""
        node = slot.node
        if node is None or node in self._checked_nodes:
            return
        strategy = NodeAffinitySchedulingStrategy(node, soft=False)
        task = ray.remote(max_retries=0)(_find_problem).options(num_cpus=0, scheduling_strategy=strategy)
        try:
            problem = ray.get(task.remote(str(folder)), timeout=CHECK_S)
        except RayError as error:
            said = str(error).strip().splitlines()
            problem = f"the Ray node {slot.name} cannot run this program: {said[-1] if said else type(error).__name__}"
        if problem is not None:
            raise LaunchError(problem)
        self._checked_nodes.add(node)


def _join_cluster(address: str) -> None:
    """Become a driver of the cluster."""
    if address.startswith("ray://"):
        raise LaunchError(f"RAY_ADDRESS is {address}, which is Ray Client's. Run this on a node of the cluster, and unset it.")
    ours = [path for path in sys.path if path and not path.startswith((sys.prefix, sys.base_prefix))]
    try:
        ray.init(
            address=address,
            log_to_driver=False,
            logging_level=logging.ERROR,
            job_config=JobConfig(_py_driver_sys_path=ours),  # where the user's own code is found
        )
    except (ConnectionError, RayError, RuntimeError, ValueError) as error:
        raise LaunchError(
            f"no Ray cluster answers at {address!r} (RAY_ADDRESS, else this machine's): {error}. Start one with "
            "`ray start --head`, or use --launcher local."
        ) from error


def _live_nodes() -> list[dict[str, Any]]:
    return [node for node in ray.nodes() if node["Alive"]]


def _attempt(folder: str, num_threads: int) -> int:
    """Our first code in the process of a task."""
    # Ray sends SIGTERM if the dispatcher has died; its own handler would raise SystemExit, which would count as a failed trial
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    return worker.run_hosted(
        Path(folder), own_slot(num_threads, has_gpu=bool(ray.get_gpu_ids())), (Path(folder) / TrialFile.STOP).exists
    )


def _find_problem(folder: str) -> str | None:
    """Why this node cannot work in ``folder``; None if it can."""
    if os.access(folder, os.W_OK):
        return None
    return (
        f"the Ray node {socket.gethostname()} does not see {folder}, or may not write there. Under --launcher ray trials are "
        "written where they are trained: let ORCHESTRATE_HOME be a folder of a file system that all nodes share, or use "
        "`orchestrate worker` on each machine."
    )
