"""The losses on tensors without values: what a GPU would have to hand to the host raises an error there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from trainers.config import VOID


@pytest.mark.parametrize(
    "config",
    [
        {"name": "focal"},
        {"name": "cross_entropy", "label_smoothing": 0.1},
        {"name": "weighted_cross_entropy"},
        {"name": "dice"},
        {"name": "jaccard"},
        {"name": "tversky"},
        {"name": "lovasz"},
        {"name": "torch.nn:CrossEntropyLoss", "options": {"ignore_index": VOID}},
    ],
    ids=lambda config: str(config["name"]),
)
def test_a_loss_never_makes_the_host_wait(config: dict[str, Any], build: Callable[..., nn.Module]) -> None:
    """Forward and backward need no value: no ``item``, no ``any`` in a condition, no boolean index."""
    loss = build(config).to("meta")
    logits = torch.empty(2, 5, 8, 8, device="meta", requires_grad=True)
    loss(logits, torch.empty(2, 8, 8, dtype=torch.uint8, device="meta")).backward()
    assert logits.grad is not None
