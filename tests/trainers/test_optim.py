from __future__ import annotations

import pytest
import torch
from torch import nn

from trainers.config import OptimizerConfig, ScheduleConfig
from trainers.optim import build_optimizer, build_schedule, lr_share


def make_optimizer() -> torch.optim.Optimizer:
    """AdamW at rate 0.1 over a few parameters."""
    return build_optimizer(OptimizerConfig(lr=0.1), nn.Linear(2, 2))


@pytest.mark.parametrize(("name", "kind", "decay"), [("adamw", torch.optim.AdamW, 0.01), ("adam", torch.optim.Adam, 0)])
def test_optimizer_is_torch_s(name: str, kind: type, decay: float) -> None:
    """The class, its rate, and its own weight decay where none is given."""
    optimizer = build_optimizer(OptimizerConfig.model_validate({"name": name, "lr": 0.5}), nn.Linear(2, 2))
    assert type(optimizer) is kind
    assert (optimizer.defaults["lr"], optimizer.defaults["weight_decay"]) == (0.5, decay)


def test_weight_decay_is_passed_on() -> None:
    """A given one replaces the optimizer's own."""
    assert build_optimizer(OptimizerConfig(weight_decay=0.3), nn.Linear(2, 2)).defaults["weight_decay"] == 0.3


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


@pytest.mark.parametrize("num_steps", [1, 2, 4, 7, 100])
@pytest.mark.parametrize("warmup", [0.0, 0.25, 0.9])
def test_one_cycle_rises_to_the_peak_and_falls(num_steps: int, warmup: float) -> None:
    """The peak is reached once the warm-up is over, however short the training; no step stands still."""
    config = ScheduleConfig(name="one_cycle", warmup_fraction=warmup)
    shares = [lr_share(config, step, num_steps=num_steps) for step in range(num_steps)]
    peak = round(warmup * num_steps)
    assert shares[:peak] == sorted(shares[:peak])
    assert shares[peak:] == sorted(shares[peak:], reverse=True)
    assert shares[peak:][:1] in ([], [1.0])
    assert all(0 < share <= 1 for share in shares)


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


@pytest.mark.parametrize("name", ["constant", "cosine", "plateau", "one_cycle"])
def test_restored_schedule_goes_on_as_before(name: str) -> None:
    """State of schedule and optimizer is all there is."""

    def advance(optimizer: torch.optim.Optimizer, schedule: object, epochs: int) -> list[float]:
        rates = []
        for _ in range(epochs):
            optimizer.step()
            schedule.after_step()
            schedule.after_epoch(0.5)
            rates.append(schedule.lr)
        return rates

    config = ScheduleConfig.model_validate({"name": name, "patience": 0})
    optimizer = make_optimizer()
    schedule = build_schedule(config, optimizer, num_steps=8)
    advance(optimizer, schedule, 3)
    other = make_optimizer()
    restored = build_schedule(config, other, num_steps=8)
    other.load_state_dict(optimizer.state_dict())
    restored.load_state_dict(schedule.state_dict())
    assert advance(other, restored, 3) == advance(optimizer, schedule, 3)
