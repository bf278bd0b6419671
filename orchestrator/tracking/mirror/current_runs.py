"""Keeps a sweep's runs up to date: their names and rows, and which of a trial's runs is the current one.

A trial has one run per deviation, such as a batch halved to fit the GPU's memory. Only the last one is current.
"""

from collections.abc import Mapping

from mlflow import MlflowClient
from mlflow.entities import Run

from orchestrator.errors import TrialError
from orchestrator.state.trial.folder import TrialFolder
from orchestrator.state.trial.records import TrialState
from orchestrator.tracking.client import log_all, relabel, search_runs, search_sweep
from orchestrator.tracking.tags import RunLabel, Tag, match_trials


def relabel_runs(client: MlflowClient, sweep: str, labels: Mapping[str, RunLabel]) -> None:
    """Update name, row and published value of the sweep's runs.

    labels: key -> label, of every planned trial. Earlier forms of the table (other epochs, other data) share the experiment:
    runs of the present form have the tag ``row``, the others ``former_row``.
    """
    for run in search_sweep(client, sweep, match_trials()):
        run_id, tags = run.info.run_id, run.data.tags
        if (label := labels.get(tags.get(Tag.KEY, ""))) is not None:
            relabel(client, run, name=label.name, tags=label.tags)
            for name in ({Tag.ROW, Tag.REPORTED, Tag.FORMER_ROW} & tags.keys()) - label.tags.keys():
                client.delete_tag(run_id, name)
        elif Tag.ROW in tags:
            client.set_tag(run_id, Tag.FORMER_ROW, tags[Tag.ROW])
            client.delete_tag(run_id, Tag.ROW)


def read_deviation(folder: TrialFolder) -> str:
    """How training deviates from the trial's spec; empty if it does not."""
    result = folder.result()
    if result is not None:
        return result.deviation or ""
    try:
        return folder.attempt().deviation or ""
    except TrialError:  # not attempted on this machine yet
        return ""


def make_current(client: MlflowClient, experiment: str, key: str, *, deviation: str) -> Run | None:
    """Make the trial's run with this deviation the current one and close the others; None if it has no such run."""
    found = None
    for run in search_runs(client, [experiment], match_trials(key)):
        if run.data.tags.get(Tag.DEVIATION, "") == deviation:
            found = found or run
        elif run.data.tags.get(Tag.CURRENT) != "false":
            reason = f"retried as: {deviation or 'configured'}"
            log_all(client, run.info.run_id, tags={Tag.STATE: TrialState.FAILED, Tag.REASON: reason})
            client.set_terminated(run.info.run_id, "FAILED")
            client.set_tag(run.info.run_id, Tag.CURRENT, "false")  # last: it states that the rest is done
    if found is not None and found.data.tags.get(Tag.CURRENT) == "false":
        client.set_tag(found.info.run_id, Tag.CURRENT, "true")
    return found
