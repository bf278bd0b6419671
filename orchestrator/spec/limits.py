"""What a sweep file may say of failures: how often a trial is tried again, what a kill may cost, and what is given up when."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from orchestrator.failures import FailureKind
from orchestrator.spec.part import Part
from trainers.config import CHECKPOINT_INTERVAL_S

Retries = Annotated[int, Field(ge=0, le=100)]


class RetrySpec(Part):
    """How many further attempts a trial gets after failures of each kind, each kind counted by itself.

    A bad configuration or bad data would fail again: there is no retry. A full disk is nobody's failure: the trial waits.
    """

    exception: Retries = 1
    signal: Retries = 1
    exit: Retries = 1
    hang: Retries = 1
    out_of_memory: Retries = 1
    device_lost: Retries = 1
    cuda_out_of_memory: Retries = 3
    """Each with half as many pictures at a time, as long as they are two."""
    diverged: Retries = 0

    def num_allowed(self, kind: FailureKind) -> int:
        """Further attempts after failures of this kind."""
        return int(self.model_dump().get(kind, 0))


class LimitsSpec(Part):
    """When an attempt counts as hung, how often it is made safe, and how much space is left alone."""

    silence_s: float = Field(default=900, ge=5)
    """Seconds without progress after which an attempt is killed; its signs come every 2 s at most. Longer than whatever it does
    at a stretch: to start and load the data, to take a step, to predict a batch of validation images, to write predictions."""
    checkpoint_s: float = Field(default=CHECKPOINT_INTERVAL_S, ge=0)
    """Seconds of training that a kill may cost beside the running epoch; 0: there is a checkpoint after every epoch."""
    takeover_s: float | None = Field(default=300, ge=0)
    """Seconds before and between uploads of a running trial's checkpoint to the tracking server, where machines share that and a
    database: what the loss of one may cost beside ``checkpoint_s`` and the time that an upload takes; null: there are none."""
    free_disk_gb: float = Field(default=2, ge=0)
    """Free space (of 10**9 bytes), beside what the trials under way may need, below which no trial is started."""
