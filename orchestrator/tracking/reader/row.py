"""One run of MLflow, as its readers need it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from orchestrator.tracking.tags import Tag


@dataclass(frozen=True)
class RunRow:
    """One run: a trial (``key``) or an ensemble."""

    run_id: str
    experiment_id: str
    sweep: str
    key: str
    name: str
    state: str
    """A TrialState, as last mirrored."""
    metrics: dict[str, float]
    params: dict[str, str]
    tags: dict[str, str]
    start_s: float
    end_ms: int | None = None
    """When it ended, by MLflow: another time means another result."""

    @classmethod
    def of(
        cls,
        *,
        run_id: str,
        experiment_id: str,
        run_name: str | None,
        start_ms: int | None,
        end_ms: int | None,
        metrics: Mapping[str, float],
        params: Mapping[str, str],
        tags: Mapping[str, str],
    ) -> RunRow:
        """From the fields of MLflow; ours are read from the tags."""
        return cls(
            run_id=run_id,
            experiment_id=experiment_id,
            sweep=tags.get(Tag.SWEEP, ""),
            key=tags.get(Tag.KEY, ""),
            name=run_name or run_id,
            state=tags.get(Tag.STATE, ""),
            metrics=dict(metrics),
            params=dict(params),
            tags=dict(tags),
            start_s=(start_ms or 0) / 1000,
            end_ms=end_ms,
        )

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
