"""What an attempt gets of a node in a cluster."""

from __future__ import annotations

import pytest

from orchestrator.errors import LaunchError
from orchestrator.launchers.base import SlotRequest
from orchestrator.launchers.choose import LAUNCHERS
from orchestrator.launchers.ray_resources import Share, choose_share

CPU_NODE = {"CPU": 8.0}
GPU_NODE = {"CPU": 32.0, "GPU": 8.0}


@pytest.mark.parametrize(
    ("nodes", "trials_per_gpu", "environment", "share"),
    [
        ([CPU_NODE], None, {}, Share(1)),
        ([CPU_NODE, GPU_NODE], None, {}, Share(4, 1.0)),
        ([GPU_NODE, {"CPU": 4.0, "GPU": 2.0}], None, {}, Share(2, 1.0)),
        ([GPU_NODE], 3, {}, Share(1, 0.3333)),
        ([GPU_NODE], None, {"CUDA_VISIBLE_DEVICES": ""}, Share(1)),
    ],
)
def test_an_attempt_gets_a_gpu_or_a_part_of_one(
    nodes: list[dict[str, float]], trials_per_gpu: int | None, environment: dict[str, str], share: Share
) -> None:
    """With its part of the node's CPUs; without GPUs one core."""
    assert choose_share(nodes, None, trials_per_gpu=trials_per_gpu, environment=environment) == share


@pytest.mark.parametrize(("each", "num"), [(1, 8), (3, 24), (4, 32), (5, 32)])
def test_shares_per_node_are_counted(each: int, num: int) -> None:
    """As many on each GPU as were asked for, and no more than there are CPUs."""
    share = choose_share([GPU_NODE], 1, trials_per_gpu=each, environment={})
    assert share.count_in(GPU_NODE) == num
    assert share.count_in(CPU_NODE) == 0


def test_ray_does_not_share_a_gpu_by_its_memory() -> None:
    """It is refused before any cluster is contacted, with what to give instead."""
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'orchestrate[ray]'")
    with pytest.raises(LaunchError, match=r"trials_per_gpu is 'auto'.*Give a number"):
        LAUNCHERS["ray"](SlotRequest(trials_per_gpu="auto"))
