"""One run of a tracking server, as its readers want it."""

from __future__ import annotations

from dataclasses import dataclass

from mlflow.entities import Run


@dataclass(frozen=True)
class RunRow:
    """One run: a trial (``key``) or an ensemble."""

    run_id: str
    sweep: str
    key: str
    name: str
    state: str
    """A TrialState, as of the last time the mirror spoke."""
    metrics: dict[str, float]
    params: dict[str, str]
    tags: dict[str, str]
    start_s: float
    end_ms: int | None = None
    """When it ended, as MLflow has it: another time, another result."""

    @property
    def files_run_id(self) -> str:
        """The run that holds the files: a run of a cached trial refers to the first one."""
        return self.tags.get("cached_from", self.run_id)


def make_row(run: Run) -> RunRow:
    """As the server tells it."""
    tags = run.data.tags
    return RunRow(
        run_id=run.info.run_id,
        sweep=tags.get("sweep", ""),
        key=tags.get("key", ""),
        name=run.info.run_name or run.info.run_id,
        state=tags.get("state", ""),
        metrics=dict(run.data.metrics),
        params=dict(run.data.params),
        tags=dict(tags),
        start_s=(run.info.start_time or 0) / 1000,
        end_ms=run.info.end_time,
    )
