"""A trial's runs on different terms, such as a batch cut for the GPU's memory: each a run of its own, the last one current."""

from __future__ import annotations

from mlflow import MlflowClient
from mlflow.entities import Run

from orchestrator.errors import TrialError
from orchestrator.tracking.connection import search_runs
from orchestrator.trial import TrialFolder, TrialState


def read_deviation(folder: TrialFolder) -> str:
    """In which way the trial was, or is now, not trained as its spec says; empty where it is."""
    result = folder.result()
    if result is not None:
        return result.deviation or ""
    try:
        return folder.attempt().deviation or ""
    except TrialError:  # not attempted on this machine yet
        return ""


def make_current(client: MlflowClient, experiment: str, key: str, *, deviation: str) -> Run | None:
    """The trial's run on these terms, if there is one, as its current one; runs on other terms are closed."""
    found = None
    for run in _runs_of(client, experiment, key):
        if _deviation(run) == deviation:
            found = found or run
        elif run.data.tags.get("current") != "false":
            client.set_tag(run.info.run_id, "state", str(TrialState.FAILED))
            client.set_tag(run.info.run_id, "reason", f"tried again as: {deviation or 'it was asked for'}")
            client.set_terminated(run.info.run_id, "FAILED")
            client.set_tag(run.info.run_id, "current", "false")  # last, as it says that the rest is done
    if found is not None and found.data.tags.get("current") == "false":
        client.set_tag(found.info.run_id, "current", "true")
    return found


def _runs_of(client: MlflowClient, experiment: str, key: str) -> list[Run]:
    return search_runs(client, [experiment], f"tags.key = '{key}' and tags.kind = 'trial'")


def _deviation(run: Run) -> str:
    return str(run.data.tags.get("deviation", ""))
