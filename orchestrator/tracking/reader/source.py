"""Chooses how runs are read: a server by its REST interface, everything else by MLflow's client."""

import importlib.metadata
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from orchestrator.tracking.location import TrackingLocation
from orchestrator.tracking.reader.row import ExperimentRow, RunRow

_NEEDS_CLIENT = (
    "MLFLOW_TRACKING_AUTH",
    "MLFLOW_TRACKING_AWS_SIGV4",
    "MLFLOW_TRACKING_CLIENT_CERT_PATH",
    "MLFLOW_TRACKING_INSECURE_TLS",
    "MLFLOW_TRACKING_SERVER_CERT_PATH",
    "MLFLOW_WORKSPACE",
)
"""Ways to reach a server that only MLflow's client supports (mlflow/utils/credentials.py, rest_utils.py)."""


class RunSource(Protocol):
    """Reads runs and experiments. Raises errors as they come; callers use ``translate_errors``. For one thread."""

    def list_experiments(self) -> list[ExperimentRow]:
        """All that are not deleted."""

    def find_experiment(self, name: str) -> str | None:
        """The id of an experiment, deleted or not."""

    def search(self, experiments: Sequence[str], query: str = "", *, is_deleted: bool = False) -> list[RunRow]:
        """Every matching run, of those that are deleted or of those that are not."""

    def find_latest(self, experiments: Sequence[str], query: str) -> RunRow | None:
        """The matching run that started last, without deleted ones."""

    def find_run(self, run_id: str) -> RunRow | None:
        """A run, deleted or not; None if there is none."""

    def list_files(self, run_id: str, folder: str = "") -> list[str]:
        """The run's files at its top level or in one folder, as ``folder/name``; not those in subfolders."""


def open_source(location: TrackingLocation) -> RunSource:
    """The fastest way that works: importing mlflow takes longer than asking a server for changes.

    Raises:
        TrackingError: the location cannot be used.
    """
    needs_client = (
        any(os.environ.get(name) for name in _NEEDS_CLIENT)
        or (Path.home() / ".mlflow" / "credentials").exists()
        or bool(importlib.metadata.entry_points(group="mlflow.request_header_provider"))
    )
    if location.is_server and not needs_client:
        from orchestrator.tracking.reader.rest import RestSource

        return RestSource(location)
    from orchestrator.tracking.reader.mlflow_client import ClientSource

    return ClientSource(location)
