"""An MLflow client for a tracking location, and the calls that readers and writers share."""

import hashlib
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from filelock import FileLock
from mlflow import MlflowClient
from mlflow.entities import Experiment, Metric, Param, Run, RunTag, ViewType
from mlflow.exceptions import MlflowException
from mlflow.store.entities import PagedList
from mlflow.utils import get_results_from_paginated_fn

from orchestrator.state.files import check_local
from orchestrator.tracking.errors import make_tracking_error
from orchestrator.tracking.location import TrackingLocation
from orchestrator.tracking.tags import SWEEP_EXPERIMENT, Tag, format_mark


class MarkingClient(MlflowClient):
    """An MlflowClient that tags every run it changes with the time, in the same request where MLflow allows it."""

    def create_run(
        self,
        experiment_id: str,
        start_time: int | None = None,
        tags: dict[str, Any] | None = None,
        run_name: str | None = None,
    ) -> Run:
        return super().create_run(experiment_id, start_time, {**(tags or {}), Tag.WRITTEN: _now()}, run_name)

    def log_batch(
        self,
        run_id: str,
        metrics: Sequence[Metric] = (),
        params: Sequence[Param] = (),
        tags: Sequence[RunTag] = (),
        synchronous: bool | None = True,
    ) -> None:
        super().log_batch(run_id, metrics, params, [*tags, RunTag(Tag.WRITTEN, _now())], synchronous=synchronous)

    def set_tag(self, run_id: str, key: str, value: Any, synchronous: bool | None = True) -> None:
        self.log_batch(run_id, tags=[RunTag(key, str(value))], synchronous=synchronous)

    def delete_tag(self, run_id: str, key: str) -> None:
        super().delete_tag(run_id, key)
        self.log_batch(run_id)

    def set_terminated(self, run_id: str, status: str | None = None, end_time: int | None = None) -> None:
        super().set_terminated(run_id, status, end_time)
        self.log_batch(run_id)

    def update_run(self, run_id: str, status: str | None = None, name: str | None = None) -> None:
        super().update_run(run_id, status, name)
        self.log_batch(run_id)


T = TypeVar("T")

_PAGE = 1000
_SQLITE = "sqlite:///"


def connect(location: TrackingLocation) -> MlflowClient:
    """A client that never touches MLflow's global state; a database without tables gets them.

    Raises:
        TrackingError: the location cannot be reached or used.
    """
    logging.getLogger("mlflow.store.db").setLevel(logging.WARNING)  # two lines about new tables, in the middle of a display
    if location.uri.startswith(_SQLITE):
        check_local(Path(location.uri.removeprefix(_SQLITE)), "MLflow's database")
    try:
        if not location.is_database:
            return _open(location.uri)
        with lock_database(location):  # a client that finds no tables creates them
            if location.uri.startswith(_SQLITE):
                _create_database(Path(location.uri.removeprefix(_SQLITE)))
            client = _open(location.uri)
            client.search_experiments(max_results=1)
            return client
    except Exception as error:  # before the connection stands, each database driver raises errors of its own
        raise make_tracking_error(location, error) from error


def find_experiment(client: MlflowClient, sweep: str) -> str | None:
    """The id of the sweep's experiment."""
    experiment = client.get_experiment_by_name(sweep)
    return None if experiment is None else str(experiment.experiment_id)


def ensure_experiment(client: MlflowClient, location: TrackingLocation, sweep: str) -> str:
    """The id of the sweep's experiment, which is created or restored if need be."""
    experiment = client.get_experiment_by_name(sweep)
    if experiment is None:
        artifact_location = (location.artifacts / sweep).absolute().as_uri() if location.is_database else None
        try:
            tags: dict[str, Any] = {Tag.ORCHESTRATE: SWEEP_EXPERIMENT}
            return str(client.create_experiment(sweep, artifact_location, tags))
        except MlflowException:
            experiment = client.get_experiment_by_name(sweep)  # another dispatcher was faster
            if experiment is None:
                raise
    if experiment.lifecycle_stage == "deleted":
        client.restore_experiment(experiment.experiment_id)
    return str(experiment.experiment_id)


def all_experiments(client: MlflowClient) -> list[Experiment]:
    """Every experiment that is not deleted."""
    return _all_pages(lambda size, token: client.search_experiments(max_results=size, page_token=token))


def search_runs(client: MlflowClient, experiments: Sequence[str], query: str, *, view: int = ViewType.ACTIVE_ONLY) -> list[Run]:
    """Every matching run of these experiments; view: deleted runs, or those that are not."""
    return _all_pages(lambda size, token: client.search_runs(list(experiments), query, view, size, page_token=token))


def search_sweep(client: MlflowClient, sweep: str, query: str) -> list[Run]:
    """Every matching run of one sweep; none if the sweep has no experiment."""
    experiment = find_experiment(client, sweep)
    return [] if experiment is None else search_runs(client, [experiment], query)


def search_everywhere(client: MlflowClient, query: str) -> list[Run]:
    """Every matching run of all experiments."""
    return search_runs(client, [str(found.experiment_id) for found in all_experiments(client)], query)


def log_all(
    client: MlflowClient,
    run_id: str,
    *,
    points: Sequence[Metric] = (),
    params: Mapping[str, str] = {},
    tags: Mapping[str, str] = {},
) -> None:
    """Send in as few batches as MLflow's limits allow: 1000 items in all, 100 params, 100 tags, 1 MB."""
    all_params = [Param(name, value) for name, value in params.items()]
    all_tags = [RunTag(name, value) for name, value in tags.items()]
    while points or all_params or all_tags:
        client.log_batch(run_id, points[:800], all_params[:100], all_tags[:100], synchronous=True)
        points, all_params, all_tags = points[800:], all_params[100:], all_tags[100:]


def relabel(client: MlflowClient, run: Run, *, name: str, tags: Mapping[str, str]) -> None:
    """Change what differs of a run's name and of these tags."""
    log_all(client, run.info.run_id, tags={key: value for key, value in tags.items() if run.data.tags.get(key) != value})
    if run.info.run_name != name:
        client.update_run(run.info.run_id, name=name)


def lock_database(location: TrackingLocation) -> FileLock:
    """Lets one process at a time create tables: two would both fail and leave tables that nobody can complete."""
    location.locks.mkdir(parents=True, exist_ok=True)
    name = hashlib.sha256(location.uri.encode()).hexdigest()[:12]
    return FileLock(location.locks / f"mlflow-{name}.lock")


def _all_pages(ask: Callable[[int, str | None], PagedList[T]]) -> list[T]:
    return list(get_results_from_paginated_fn(ask, _PAGE))  # type: ignore[no-untyped-call]  # it has no types


def _now() -> str:
    return format_mark(time.time())


def _open(uri: str) -> MlflowClient:
    return MarkingClient(tracking_uri=uri, registry_uri=uri)


def _create_database(database: Path) -> None:
    """Create the database with all its tables at once: after a kill halfway nobody could complete it."""
    if database.exists():
        return
    database.parent.mkdir(parents=True, exist_ok=True)
    new = database.with_name(f"{database.name}.new")
    for leftover in (new, new.with_name(f"{new.name}-journal")):
        leftover.unlink(missing_ok=True)
    _open(f"{_SQLITE}{new}").search_experiments(max_results=1)
    new.replace(database)
