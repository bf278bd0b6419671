"""Estimates of trials from the timings of earlier ones."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.planning.forecast.estimates import Basis, Estimator, Machine, Workload, estimate, run_on, write_hours
from orchestrator.planning.forecast.timings import Timing
from orchestrator.state.trial.records import TrialSpec
from trainers.config import DataConfig, TrainConfig

CPU = Machine("cpu", num_slots=2, num_threads=1)
SIZE = (64, 128)


def timing(**changed: Any) -> Timing:
    """A trial with 100 images, 8 s of training and 2 s of validation per epoch, and 5 s of overhead."""
    parts: dict[str, Any] = {"key": "k", "arch": "Unet", "encoder": "resnet18", "size": SIZE, "device": "cpu", "num_threads": 1}
    parts |= {"num_samples": 100, "num_val": 10, "train_s": 8.0, "val_s": 2.0, "overhead_s": 5.0}
    return Timing(**(parts | {"weights_bytes": 4000, "other_bytes": 500} | changed))


def job(key: str = "new", *, num_train: int = 100, num_val: int = 10, size: tuple[int, int] = SIZE, **fields: Any) -> Workload:
    """A trial to come."""
    train = TrainConfig.model_validate({"encoder": "resnet18", "epochs": 4} | fields)
    identity = {"configuration": key, "name": key, "data": DataConfig(), "seed": 0, "source_fingerprint": "f"}
    return Workload(TrialSpec(key=key, train=train, **identity), size, num_train, num_val)


def seconds(timings: list[Timing], one: Workload, machine: Machine = CPU) -> tuple[float, Basis]:
    """Expected seconds, and their basis."""
    cost = Estimator(timings, machine).cost_of(one)
    assert cost is not None
    return cost.seconds, cost.basis


def test_the_same_network_on_more_images_for_more_epochs() -> None:
    """Time scales with epochs and images; the overhead counts once."""
    assert seconds([timing()], job()) == (pytest.approx(45), Basis.SAME)
    assert seconds([timing()], job(epochs=8, num_train=200, num_val=20)) == (pytest.approx(165), Basis.SAME)


def test_validation_is_estimated_separately() -> None:
    """With few training and many validation images, validation dominates, once per mirror image."""
    assert seconds([timing()], job(num_train=50, num_val=60))[0] == pytest.approx(5 + 4 * (4 + 12))
    assert seconds([timing()], job(test_time_flips="both"))[0] == pytest.approx(5 + 4 * (8 + 8))
    assert seconds([timing(views=4)], job())[0] == pytest.approx(5 + 4 * (8 + 0.5))


def test_the_most_similar_trials_count() -> None:
    """Other trials count only if the same network was never trained at this size; then the estimate is a guess."""
    known = [timing(), timing(encoder="resnet34", train_s=16.0, val_s=4.0), timing(arch="FPN", train_s=1.0)]
    assert seconds(known, job())[0] == pytest.approx(45)
    assert seconds(known, job(encoder="mobilenet_v2")) == (pytest.approx(65), Basis.ARCHITECTURE)
    assert seconds(known, job(arch="Linknet"))[1] is Basis.OTHERS


def test_other_sizes_count_by_their_pixels() -> None:
    """A network that was trained only at another size gives a guess."""
    assert seconds([timing()], job(size=(128, 128))) == (pytest.approx(85), Basis.OTHERS)


def test_threads_share_the_work_of_a_cpu() -> None:
    """The unit is seconds of one core."""
    assert seconds([timing(num_threads=2)], job())[0] == pytest.approx(85)
    assert seconds([timing()], job(), Machine("cpu", 1, 4))[0] == pytest.approx(15)


def test_another_kind_of_device_does_not_count() -> None:
    """Without a training on such a device there is no estimate."""
    gpu = Machine("NVIDIA H100", 1, 8)
    assert Estimator([timing()], gpu).cost_of(job()) is None
    assert estimate([job()], Estimator([timing()], gpu)) is None


def test_a_plan_is_estimated_as_a_whole() -> None:
    """Wall time on the slots, device hours, bytes on disk, and how much of it is a guess."""
    jobs = [job("a"), job("b"), job("c", arch="FPN"), job("d")]
    found = estimate(jobs, Estimator([timing()], CPU), unlisted=[job("later")])
    assert found is not None
    assert found.wall_s == pytest.approx(135)
    assert found.device_hours == pytest.approx(225 / 3600)
    assert found.guesses == {Basis.OTHERS: 1}
    assert found.durations_s.keys() == {"a", "b", "c", "d"}
    assert found.kept_bytes == pytest.approx(5 * 4500)
    assert found.running_bytes == pytest.approx(2 * 7 * 4000)
    assert found.describe() == (
        "estimate: 2 min on 2 slots of the CPU, under 0.1 core-hours "
        "(guess: 1 of 5 trials by other architectures or sizes; 1 not proposed yet, estimated from points of the space)"
    )
    assert found.to_json()["guessed"] == {"others": 1}


def test_a_shared_gpu_counts_once() -> None:
    """As in the budget of GPU-hours: two attempts that share it cost no more than one."""
    shared = Machine("NVIDIA H100", 4, 8, num_gpus=2)
    known = Estimator([timing(device="NVIDIA H100")], shared)
    found = estimate([job(name) for name in "abcd"], known)
    assert found is not None
    assert (found.wall_s, found.device_hours) == (pytest.approx(45), pytest.approx(2 * 45 / 3600))


@pytest.mark.parametrize(("order", "wall_s"), [([1, 1, 1, 3], 4), ([3, 1, 1, 1], 3)])
def test_the_order_decides_the_end(order: list[float], wall_s: float) -> None:
    """Each trial takes the first free slot."""
    assert run_on(order, 2) == wall_s


def test_times_are_written_for_people() -> None:
    """In a suitable unit."""
    assert [write_hours(h) for h in (0.06, 3.42, 1234.5)] == ["under 0.1", "3.4", "1234"]
