"""Optuna's trials as records of configurations: what we write into a trial, and how it is read; for study.py."""

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

    number, id: Optuna's, in the study and in the storage. params: as in Configuration. value: the mean val/miou of a complete
    trial. steps: its reports, step -> val/miou. is_failed: it failed in training, as opposed to being stopped or abandoned.
    """

    number: int
    id: int
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
    def is_requeued(self) -> bool:
        """Whether it can be proposed again; earlier versions recorded a requeued trial as a failure."""
        return self.state is OptunaState.WAITING or (self.state is OptunaState.FAIL and not self.is_failed)


def identify(configuration: Configuration) -> str:
    """Return what identifies a configuration's trial in the study: two rows may differ in their seeds alone."""
    return configuration.id if configuration.seed is None else f"{configuration.id}-{configuration.seed}"


def describe(configuration: Configuration) -> dict[str, Any]:
    """Return what is written into a claimed trial, for ``read_trials``."""
    return {"id": identify(configuration), "params": dict(configuration.params)}


def read_trials(trials: Iterable[FrozenTrial]) -> Iterator[StudyTrial]:
    """Yield the claimed trials; the others are repeated proposals, or their process died before it claimed them."""
    for trial in trials:
        if (described := trial.user_attrs.get("configuration")) is not None:
            yield StudyTrial(
                number=trial.number,
                id=trial._trial_id,
                identity=described["id"],
                params=described["params"],
                state=trial.state,
                value=trial.value if trial.state is OptunaState.COMPLETE else None,
                is_failed=bool(trial.user_attrs.get("is_failed")),
                steps=trial.intermediate_values,
                ended=trial.datetime_complete,
            )
