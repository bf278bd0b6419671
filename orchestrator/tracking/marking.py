"""The client through which everything is written: it marks each run that it changes with the time, for index.py to find."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, Run, RunTag

WRITTEN = "written"
"""Tag of a run: when it was changed last, in UTC, as ``2026-11-22T18:05``. MLflow cannot be asked what has changed."""

_FORMAT = "%Y-%m-%dT%H:%M"

_PRECISIONS = ((600, len("2026-11-22T18:0")), (3600, len("2026-11-22T18")), (86400, len("2026-11-22")))
"""Seconds that the first so many characters of a mark stand for."""

_MOST_BEGINNINGS = 31


def write_mark(now_s: float) -> str:
    """The mark of a moment."""
    return time.strftime(_FORMAT, time.gmtime(now_s))


def list_beginnings(since_s: float, until_s: float) -> list[str] | None:
    """What the marks of a time begin with, in a few words; None where they would be too many.

    MLflow compares tags by LIKE and by nothing else, so that a time is asked for by its tens of minutes, hours or days.
    """
    for step_s, length in _PRECISIONS:
        first, last = int(since_s // step_s), int(until_s // step_s)
        if last - first < _MOST_BEGINNINGS and (last - first < 12 or step_s == _PRECISIONS[-1][0]):
            return [write_mark(number * step_s)[:length] for number in range(first, last + 1)]
    return None


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
