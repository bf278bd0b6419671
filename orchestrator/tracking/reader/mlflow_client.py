"""Reads runs with MLflow's client: from databases, and from servers that need more than a login."""

from collections.abc import Sequence

import mlflow  # noqa: F401  whole, before its parts (see tracking/__init__.py)
from mlflow.entities import Run, ViewType
from mlflow.exceptions import MlflowException

from orchestrator.tracking.client import all_experiments, connect, find_experiment, search_runs
from orchestrator.tracking.location import TrackingLocation
from orchestrator.tracking.reader.row import ExperimentRow, RunRow


class ClientSource:
    """A RunSource.

    Raises:
        TrackingError: the location cannot be used.
    """

    def __init__(self, location: TrackingLocation) -> None:
        self._client = connect(location)

    def list_experiments(self) -> list[ExperimentRow]:
        found = all_experiments(self._client)
        return [ExperimentRow(str(each.experiment_id), str(each.name), dict(each.tags)) for each in found]

    def find_experiment(self, name: str) -> str | None:
        return find_experiment(self._client, name)

    def search(self, experiments: Sequence[str], query: str = "", *, is_deleted: bool = False) -> list[RunRow]:
        view = ViewType.DELETED_ONLY if is_deleted else ViewType.ACTIVE_ONLY
        return [make_row(run) for run in search_runs(self._client, experiments, query, view=view)]

    def find_latest(self, experiments: Sequence[str], query: str) -> RunRow | None:
        found = self._client.search_runs(list(experiments), query, max_results=1, order_by=["attributes.start_time DESC"])
        return make_row(found[0]) if found else None

    def find_run(self, run_id: str) -> RunRow | None:
        try:
            return make_row(self._client.get_run(run_id))
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return None
            raise

    def list_files(self, run_id: str, folder: str = "") -> list[str]:
        return [str(file.path) for file in self._client.list_artifacts(run_id, folder or None) if not file.is_dir]


def make_row(run: Run) -> RunRow:
    """A run of MLflow's client."""
    return RunRow(
        run_id=str(run.info.run_id),
        experiment_id=str(run.info.experiment_id),
        name=run.info.run_name or str(run.info.run_id),
        metrics=dict(run.data.metrics),
        params=dict(run.data.params),
        tags=dict(run.data.tags),
        start_s=(run.info.start_time or 0) / 1000,
        end_ms=run.info.end_time,
    )
