from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter
from torch import Tensor, nn

from trainers.config import VOID
from trainers.config.loss import Loss
from trainers.losses import build_loss

NUM_CLASSES = 5
COUNTS = (500, 300, 150, 40, 10)


@pytest.fixture
def build() -> Callable[..., nn.Module]:
    """Build the loss of five classes, of which the data ignores 0; arguments override that."""

    def make(
        config: dict[str, Any], *, ignore_classes: Sequence[int] = (0,), counts: Sequence[int] = COUNTS, num_classes: int = 5
    ) -> nn.Module:
        loss = TypeAdapter(Loss).validate_python(config)
        return build_loss(loss, num_classes=num_classes, ignore_classes=ignore_classes, class_counts=np.array(counts))

    return make


@pytest.fixture
def make_batch() -> Callable[..., tuple[Tensor, Tensor]]:
    """Draw logits and a target that holds every class and void."""

    def make(dtype: torch.dtype = torch.float32, size: int = 6) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(0)
        logits = torch.randn(3, NUM_CLASSES, size, size, generator=generator, dtype=dtype)
        target = torch.randint(0, NUM_CLASSES, (3, size, size), generator=generator)
        target[:, 0, 0] = VOID
        return logits.requires_grad_(), target

    return make
