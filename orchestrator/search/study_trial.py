"""Optuna's trials as records of configurations: what stands in a trial of ours, and how it is read; for study.py."""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from optuna.trial import FrozenTrial
from optuna.trial import TrialState as OptunaState

from orchestrator.planning.configuration import Configuration


@dataclass(frozen=True)
class StudyTrial:
    """A configuration's trial in the study.

    params: as in Configuration. value: the mean val/miou, where it is complete. steps: what it reported while it ran.
    is_failed: trained and failed, as opposed to stopped or left behind.
    """

    number: int
    identity: str
    params: Mapping[str, Any]
    state: OptunaState
    value: float | None
    is_failed: bool
    steps: Mapping[int, float]
    ended: datetime.datetime | None

    @property
    def is_complete(self) -> bool:
        return self.state is OptunaState.COMPLETE

    @property
    def is_running(self) -> bool:
        return self.state is OptunaState.RUNNING

    @property
    def is_given_back(self) -> bool:
        """Earlier versions ended what was given back as a failure."""
        return self.state is OptunaState.WAITING or (self.state is OptunaState.FAIL and not self.is_failed)


def identify(configuration: Configuration) -> str:
    """What makes a configuration one trial of the study: two rows may differ in their seeds alone."""
    return configuration.id if configuration.seed is None else f"{configuration.id}-{configuration.seed}"


def describe(configuration: Configuration) -> dict[str, Any]:
    """What is written into a trial, by which ``read_trials`` knows it again."""
    return {"id": identify(configuration), "params": dict(configuration.params)}


def read_trials(trials: Iterable[FrozenTrial]) -> Iterator[StudyTrial]:
    """Trials that were signed; others are repeated proposals, or were never finished being asked."""
    for trial in trials:
        if (described := trial.user_attrs.get("configuration")) is not None:
            yield StudyTrial(
                number=trial.number,
                identity=described["id"],
                params=described["params"],
                state=trial.state,
                value=trial.value if trial.state is OptunaState.COMPLETE else None,
                is_failed=bool(trial.user_attrs.get("is_failed")),
                steps=trial.intermediate_values,
                ended=trial.datetime_complete,
            )
