"""Ensembles -> runs of their sweep's experiment, each once; only the last ensemble of a row stays current."""

import getpass
import hashlib
import json
import time
from collections.abc import Sequence

from mlflow import MlflowClient
from mlflow.entities import Metric, Run
from mlflow.utils.mlflow_tags import MLFLOW_USER

from orchestrator.state.trial.records import TrialState
from orchestrator.tracking.client import connect, ensure_experiment, log_all, relabel, search_runs
from orchestrator.tracking.errors import translate_errors
from orchestrator.tracking.location import TrackingLocation
from orchestrator.tracking.tags import EnsembleRecord, RunKind, Tag, legalize, match_tags


def log_ensemble(location: TrackingLocation, sweep: str, record: EnsembleRecord) -> str:
    """Record an ensemble in the sweep's experiment; returns the id of its run, new or not.

    Raises:
        TrackingError: the server cannot be used.
    """
    client = connect(location)
    with translate_errors(location):
        experiment = ensure_experiment(client, location, sweep)
        return _log(client, experiment, sweep, record, known=_search(client, experiment))


def log_table(client: MlflowClient, location: TrackingLocation, sweep: str, records: Sequence[EnsembleRecord]) -> list[str]:
    """Record all ensembles of a sweep's table; those of earlier tables stop being current. Returns the runs' ids."""
    experiment = ensure_experiment(client, location, sweep)
    known = _search(client, experiment)
    run_ids = [_log(client, experiment, sweep, record, known=known) for record in records]
    for run in known:
        is_current = run.info.run_id in run_ids
        if Tag.ROW in run.data.tags and (run.data.tags.get(Tag.CURRENT) == "true") != is_current:
            client.set_tag(run.info.run_id, Tag.CURRENT, "true" if is_current else "false")
    return run_ids


def _search(client: MlflowClient, experiment: str) -> list[Run]:
    return search_runs(client, [experiment], f"{match_tags({Tag.KIND: RunKind.ENSEMBLE})} and attributes.status != 'RUNNING'")


def _log(client: MlflowClient, experiment: str, sweep: str, record: EnsembleRecord, *, known: Sequence[Run]) -> str:
    text = json.dumps(record.document, indent=1, sort_keys=True)
    identity = hashlib.sha256(text.encode()).hexdigest()[:16]
    for run in known:
        if run.data.tags.get(Tag.ENSEMBLE) == identity and run.info.status in ("FINISHED", "FAILED"):
            # The sweep file may have changed what is no part of the document.
            relabel(client, run, name=record.name, tags=record.tags)
            return str(run.info.run_id)
    tags: dict[str, str] = {
        Tag.KIND: RunKind.ENSEMBLE,
        Tag.ENSEMBLE: identity,
        Tag.SWEEP: sweep,
        Tag.CURRENT: "true",
        Tag.MEMBERS: ",".join(record.members),
        Tag.STATE: TrialState.FAILED if record.reason else TrialState.COMPLETE,
        MLFLOW_USER: getpass.getuser(),
        **record.tags,
    }
    if record.reason:
        tags[Tag.REASON] = record.reason[:1000]
    run_id = str(client.create_run(experiment, tags=tags, run_name=record.name).info.run_id)
    now_ms, names = round(time.time() * 1000), legalize(record.metrics)
    points = [Metric(name, value, now_ms, 0) for name, value in zip(names, record.metrics.values(), strict=True)]
    log_all(client, run_id, points=points, params=record.make_params())
    client.log_text(run_id, text, "ensemble.json")
    for path in record.files:
        client.log_artifact(run_id, str(path))
    client.set_terminated(run_id, "FAILED" if record.reason else "FINISHED")
    return run_id
