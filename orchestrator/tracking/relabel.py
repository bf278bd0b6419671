"""A sweep's runs get the names and rows that its present plan gives them; a run that is no longer planned loses its row."""

from __future__ import annotations

from collections.abc import Mapping

from mlflow import MlflowClient
from mlflow.entities import Run, RunTag

from orchestrator.tracking.connection import find_experiment, search_runs
from orchestrator.tracking.labels import FORMER_ROW, REPORTED, ROW, RunLabel


def relabel_runs(client: MlflowClient, sweep: str, labels: Mapping[str, RunLabel]) -> None:
    """Bring name, row and published figure of the sweep's runs up to date.

    labels: key -> label, of every trial that the plan knows. Two forms of one table (other epochs, other data) lie in one
    experiment: only runs of the present one carry ``row``, the others ``former_row``.
    """
    experiment = find_experiment(client, sweep)
    for run in [] if experiment is None else search_runs(client, [experiment], "tags.kind = 'trial'"):
        label = labels.get(run.data.tags.get("key", ""))
        if label is not None:
            _apply(client, run, label)
        elif ROW in run.data.tags:
            client.set_tag(run.info.run_id, FORMER_ROW, run.data.tags[ROW])
            client.delete_tag(run.info.run_id, ROW)


def _apply(client: MlflowClient, run: Run, label: RunLabel) -> None:
    run_id, tags = run.info.run_id, run.data.tags
    changed = [RunTag(name, value) for name, value in label.tags.items() if tags.get(name) != value]
    if changed:
        client.log_batch(run_id, tags=changed, synchronous=True)
    for name in (ROW, REPORTED, FORMER_ROW):
        if name in tags and name not in label.tags:
            client.delete_tag(run_id, name)
    if run.info.run_name != label.name:
        client.update_run(run_id, name=label.name)
