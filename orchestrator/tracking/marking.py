"""The client through which everything is written: it marks each run that it changes with the time, for index.py to find."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, Run, RunTag

from orchestrator.tracking.marks import WRITTEN, write_mark


class MarkingClient(MlflowClient):
    """An MlflowClient whose writes leave a mark: in the same request where that is possible, else right after it."""

    def create_run(
        self,
        experiment_id: str,
        start_time: int | None = None,
        tags: dict[str, Any] | None = None,
        run_name: str | None = None,
    ) -> Run:
        return super().create_run(experiment_id, start_time, {**(tags or {}), WRITTEN: write_mark(time.time())}, run_name)

    def log_batch(
        self,
        run_id: str,
        metrics: Sequence[Metric] = (),
        params: Sequence[Param] = (),
        tags: Sequence[RunTag] = (),
        synchronous: bool | None = True,
    ) -> None:
        super().log_batch(run_id, metrics, params, [*tags, RunTag(WRITTEN, write_mark(time.time()))], synchronous=synchronous)

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
