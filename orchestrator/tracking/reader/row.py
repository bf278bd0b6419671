"""One run of MLflow, as its readers need it."""

from collections.abc import Iterable
from dataclasses import dataclass

from orchestrator.tracking.tags import Tag


@dataclass(frozen=True)
class RunRow:
    """One run: a trial or an ensemble."""

    run_id: str
    experiment_id: str
    name: str
    metrics: dict[str, float]
    params: dict[str, str]
    tags: dict[str, str]
    start_s: float
    end_ms: int | None = None
    """When it ended, by MLflow: another time means another result."""

    @property
    def sweep(self) -> str:
        return self.tags.get(Tag.SWEEP, "")

    @property
    def key(self) -> str:
        return self.tags.get(Tag.KEY, "")

    @property
    def state(self) -> str:
        """A TrialState, as last mirrored."""
        return self.tags.get(Tag.STATE, "")

    @property
    def files_run_id(self) -> str:
        """The run that holds the files: a cached trial's run refers to the first one."""
        return self.tags.get(Tag.CACHED_FROM, self.run_id)


def one_run_per_key(runs: Iterable[RunRow]) -> dict[str, RunRow]:
    """Key -> run, each trial once: the run that trained it if it is among ``runs``, else one that refers to it."""
    by_key: dict[str, RunRow] = {}
    for run in sorted(runs, key=lambda run: Tag.CACHED_FROM in run.tags):
        by_key.setdefault(run.key, run)
    return by_key


@dataclass(frozen=True)
class ExperimentRow:
    """One experiment that is not deleted."""

    experiment_id: str
    name: str
    tags: dict[str, str]
