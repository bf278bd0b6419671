"""A user's own code in the old home: a network of a few hundred weights, and a loss that raises.

Part of the trials' keys, and packed with the home: what lies here counts only for the next home that is made.
"""

import os
import time

from torch import Tensor, nn


class Net(nn.Module):
    """Three convolutions; sleeps in training if NAP_S says so, so that a sweep can be caught in the middle."""

    def __init__(self, *, in_channels: int, classes: int, width: int = 6) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(in_channels, width, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=2, dilation=2),
            nn.ReLU(),
            nn.Conv2d(width, classes, 1),
        )

    def forward(self, images: Tensor) -> Tensor:
        """(N, in_channels, H, W) -> logits (N, classes, H, W)."""
        if self.training:
            time.sleep(float(os.environ.get("NAP_S", "0")))
        logits: Tensor = self.layers(images)
        return logits


class Raising(nn.Module):
    """A loss with a bug."""

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Fail."""
        raise ValueError("there is a bug in this loss")
