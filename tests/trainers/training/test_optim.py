from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from timm.optim.lion import Lion
from torch import Tensor, nn

from trainers.config import OptimizerConfig
from trainers.config.train import ScheduleConfig
from trainers.training.optim import START, Schedule, build_optimizer, build_schedule, lr_share

each_optimizer = pytest.mark.parametrize("name", ["adamw", "adam", "sgd", "lion"])
each_schedule = pytest.mark.parametrize("name", ["constant", "cosine", "plateau", "one_cycle"])


def make_optimizer(name: str = "adamw") -> torch.optim.Optimizer:
    """An optimizer with rate 0.1 over a few parameters."""
    return build_optimizer(OptimizerConfig.model_validate({"name": name, "lr": 0.1}), nn.Linear(2, 2))


def advance(optimizer: torch.optim.Optimizer, schedule: Schedule, mious: list[float], *, steps: int = 1) -> list[float]:
    """Go through epochs of ``steps`` steps with these val/miou; returns the rate of each step and of the one after."""
    rates = [schedule.lr]
    for miou in mious:
        for _ in range(steps):
            optimizer.step()
            schedule.after_step()
            rates.append(schedule.lr)
        schedule.after_epoch(miou)
        rates[-1] = schedule.lr
    return rates


@pytest.mark.parametrize(
    ("name", "kind", "decay"),
    [("adamw", torch.optim.AdamW, 0.01), ("adam", torch.optim.Adam, 0), ("sgd", torch.optim.SGD, 0), ("lion", Lion, 0)],
)
def test_optimizer_is_the_library_s(name: str, kind: type, decay: float) -> None:
    """The class, its rate, and its own weight decay where none is given."""
    optimizer = build_optimizer(OptimizerConfig.model_validate({"name": name, "lr": 0.5}), nn.Linear(2, 2))
    assert type(optimizer) is kind
    assert (optimizer.defaults["lr"], optimizer.defaults["weight_decay"]) == (0.5, decay)


@each_optimizer
def test_weight_decay_is_passed_on(name: str) -> None:
    """A given one replaces the optimizer's own."""
    config = OptimizerConfig.model_validate({"name": name, "weight_decay": 0.3})
    assert build_optimizer(config, nn.Linear(2, 2)).defaults["weight_decay"] == 0.3


@each_optimizer
def test_step_lowers_a_convex_loss(name: str) -> None:
    """A small step against the gradient of a least-squares problem."""
    torch.manual_seed(0)
    model, inputs, outputs = nn.Linear(3, 1), torch.randn(20, 3), torch.randn(20, 1)
    optimizer = build_optimizer(OptimizerConfig.model_validate({"name": name, "lr": 0.01}), model)
    before = nn.functional.mse_loss(model(inputs), outputs)
    before.backward()
    optimizer.step()
    assert nn.functional.mse_loss(model(inputs), outputs) < before


def take_steps(config: dict[str, Any], start: list[float], gradients: list[list[float]]) -> list[float]:
    """Where a parameter at ``start`` is after steps with these gradients."""
    model = nn.Module()
    model.register_parameter("weight", nn.Parameter(torch.tensor(start)))
    optimizer = build_optimizer(OptimizerConfig.model_validate(config), model)
    for gradient in gradients:
        model.weight.grad = torch.tensor(gradient)
        optimizer.step()
    return model.weight.tolist()


def test_lion_by_hand() -> None:
    """Chen et al., algorithm 2: each step is lr long, by the sign of 0.9 m + 0.1 g; then m = 0.99 m + 0.01 g.

    The second gradients turn round: -0.05 leaves the sign of 0.9 * 0.01 - 0.1 * 0.05 as it was, -10 does not.
    """
    found = take_steps({"name": "lion", "lr": 0.5}, [1.0, 1.0], [[1.0, 1.0], [-0.05, -10.0]])
    assert found == pytest.approx([1 - 0.5 - 0.5, 1 - 0.5 + 0.5])


def test_lion_decays_weights_apart_from_the_gradient() -> None:
    """1 * (1 - 0.5 * 0.2) - 0.5."""
    assert take_steps({"name": "lion", "lr": 0.5, "weight_decay": 0.2}, [1.0], [[3.0]]) == pytest.approx([0.4])


def test_sgd_by_hand() -> None:
    """The second step continues with the momentum's share of the first."""
    found = take_steps({"name": "sgd", "lr": 0.1, "momentum": 0.5}, [1.0], [[2.0], [4.0]])
    assert found == pytest.approx([1 - 0.1 * 2 - 0.1 * (0.5 * 2 + 4)])


@each_optimizer
def test_restored_optimizer_resumes_as_before(name: str, tmp_path: Path) -> None:
    """Through a file, and to the bit."""

    def step(model: nn.Module, optimizer: torch.optim.Optimizer) -> Tensor:
        optimizer.zero_grad()
        model(torch.tensor([[1.0, -2.0]])).square().sum().backward()
        optimizer.step()
        return model.weight.detach().clone()

    config = OptimizerConfig.model_validate({"name": name})
    model, other = nn.Linear(2, 2), nn.Linear(2, 2)
    optimizer, restored = build_optimizer(config, model), build_optimizer(config, other)
    step(model, optimizer)
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / "last.pt")
    state = torch.load(tmp_path / "last.pt", weights_only=True)
    other.load_state_dict(state["model"])
    restored.load_state_dict(state["optimizer"])
    assert all(torch.equal(step(other, restored), step(model, optimizer)) for _ in range(3))


def test_frozen_parameters_are_left_out() -> None:
    """Only what is trained is given to the optimizer."""
    model = nn.Linear(2, 2)
    model.bias.requires_grad_(False)
    assert len(build_optimizer(OptimizerConfig(), model).param_groups[0]["params"]) == 1


def test_constant_stays() -> None:
    """At the configured rate."""
    assert {lr_share(ScheduleConfig(name="constant"), step, num_steps=10) for step in range(11)} == {1.0}


def test_cosine_falls_from_the_start() -> None:
    """From the configured rate, never rising, to nearly nothing."""
    shares = [lr_share(ScheduleConfig(name="cosine"), step, num_steps=10) for step in range(11)]
    assert shares[0] == 1
    assert shares == sorted(shares, reverse=True)
    assert 0 < shares[-1] < 0.01


def test_schedule_moves_the_optimizer_step_by_step() -> None:
    """The rate of a step is the configured one times its share."""
    optimizer, config = make_optimizer(), ScheduleConfig(name="cosine")
    schedule = build_schedule(config, optimizer, num_steps=4)
    for step in range(4):
        assert schedule.lr == pytest.approx(0.1 * lr_share(config, step, num_steps=4))
        optimizer.step()
        schedule.after_step()


def test_plateau_falls_when_validation_stands_still() -> None:
    """After more than ``patience`` epochs without improvement; steps alone do nothing."""
    optimizer = make_optimizer()
    schedule = build_schedule(ScheduleConfig(name="plateau", patience=1, factor=0.5), optimizer, num_steps=100)
    schedule.after_step()
    for miou, expected in [(0.2, 0.1), (0.3, 0.1), (0.3, 0.1), (0.25, 0.05)]:
        schedule.after_epoch(miou)
        assert schedule.lr == pytest.approx(expected)


@each_schedule
@settings(max_examples=50, deadline=None)
@given(num_steps=st.integers(1, 60), warmup=st.floats(0, 0.99))
def test_every_schedule_rises_to_the_peak_and_never_again(name: str, num_steps: int, warmup: float) -> None:
    """From START, without standing still, during its share of the steps; the peak is the first rate after it."""
    config = ScheduleConfig.model_validate({"name": name, "warmup_fraction": warmup})
    shares = [lr_share(config, step, num_steps=num_steps) for step in range(num_steps + 1)]
    peak = round(warmup * num_steps)
    assert shares[0] == (START if peak else 1)
    assert all(before < after for before, after in pairwise(shares[: peak + 1]))
    assert shares[peak] == 1
    assert shares[peak:] == sorted(shares[peak:], reverse=True)
    assert min(shares) > 0


@pytest.mark.parametrize(("name", "first"), [("constant", 1), ("cosine", 1), ("plateau", 1), ("one_cycle", START)])
def test_only_one_cycle_warms_up_by_itself(name: str, first: float) -> None:
    """For a quarter of the steps."""
    shares = [lr_share(ScheduleConfig.model_validate({"name": name}), step, num_steps=8) for step in range(9)]
    assert shares[0] == first
    assert shares.index(1) == (2 if name == "one_cycle" else 0)


def test_plateau_watches_validation_only_once_warm() -> None:
    """The rise is per step; a better epoch during it sets no mark, worse ones after it are counted."""
    optimizer = make_optimizer()
    config = ScheduleConfig(name="plateau", patience=0, factor=0.5, warmup_fraction=0.5)
    schedule = build_schedule(config, optimizer, num_steps=12)
    rates = advance(optimizer, schedule, [0.9, 0.8], steps=2)
    assert rates == pytest.approx([0.1 * lr_share(config, step, num_steps=12) for step in range(5)])
    assert schedule.lr < 0.1
    assert advance(optimizer, schedule, [0.2, 0.3, 0.3, 0.4], steps=2)[2::2] == pytest.approx([0.1, 0.1, 0.05, 0.05])


def test_warm_plateau_is_not_undone_by_steps() -> None:
    """What the plateau took off stays off."""
    optimizer = make_optimizer()
    schedule = build_schedule(ScheduleConfig(name="plateau", patience=0, warmup_fraction=0.1), optimizer, num_steps=20)
    advance(optimizer, schedule, [0.5, 0.5], steps=2)
    assert advance(optimizer, schedule, [0.6], steps=5) == pytest.approx([0.05] * 6)


@each_schedule
@pytest.mark.parametrize("warmup", [None, 0.5])
@pytest.mark.parametrize("epochs", [0, 1, 3, 6], ids=["new", "rising", "warm", "reduced"])
def test_restored_schedule_resumes_as_before(name: str, warmup: float | None, epochs: int, tmp_path: Path) -> None:
    """State of schedule and optimizer, through a file, is all there is."""
    config = ScheduleConfig.model_validate({"name": name, "patience": 0, "warmup_fraction": warmup})
    optimizer = make_optimizer()
    schedule = build_schedule(config, optimizer, num_steps=24)
    advance(optimizer, schedule, [0.5] * epochs, steps=4)
    torch.save({"optimizer": optimizer.state_dict(), "schedule": schedule.state_dict()}, tmp_path / "last.pt")
    other = make_optimizer()
    restored = build_schedule(config, other, num_steps=24)
    state = torch.load(tmp_path / "last.pt", weights_only=True)
    other.load_state_dict(state["optimizer"])
    restored.load_state_dict(state["schedule"])
    expected = advance(optimizer, schedule, [0.5, 0.6, 0.6], steps=4)
    assert advance(other, restored, [0.5, 0.6, 0.6], steps=4) == expected
    if name == "plateau" and epochs == 6:
        assert expected[0] < 0.1
