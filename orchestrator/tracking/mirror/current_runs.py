"""A trial's runs on different terms, such as a batch cut for the GPU's memory: each a run of its own, the last one current."""

from __future__ import annotations

from collections.abc import Mapping

from mlflow import MlflowClient
from mlflow.entities import Run, RunTag

from orchestrator.errors import TrialError
from orchestrator.state.trial.folder import TrialFolder
from orchestrator.state.trial.records import TrialState
from orchestrator.tracking.client import find_experiment, search_runs
from orchestrator.tracking.tags import RunLabel, Tag, match_trials


def relabel_runs(client: MlflowClient, sweep: str, labels: Mapping[str, RunLabel]) -> None:
    """Bring name, row and published figure of the sweep's runs up to date.

    labels: key -> label, of every trial that the plan knows. Two forms of one table (other epochs, other data) lie in one
    experiment: only runs of the present one carry ``row``, the others ``former_row``.
    """
    experiment = find_experiment(client, sweep)
    for run in [] if experiment is None else search_runs(client, [experiment], match_trials()):
        label = labels.get(run.data.tags.get(Tag.KEY, ""))
        if label is not None:
            _apply(client, run, label)
        elif Tag.ROW in run.data.tags:
            client.set_tag(run.info.run_id, Tag.FORMER_ROW, run.data.tags[Tag.ROW])
            client.delete_tag(run.info.run_id, Tag.ROW)


def _apply(client: MlflowClient, run: Run, label: RunLabel) -> None:
    run_id, tags = run.info.run_id, run.data.tags
    changed = [RunTag(name, value) for name, value in label.tags.items() if tags.get(name) != value]
    if changed:
        client.log_batch(run_id, tags=changed, synchronous=True)
    for name in (Tag.ROW, Tag.REPORTED, Tag.FORMER_ROW):
        if name in tags and name not in label.tags:
            client.delete_tag(run_id, name)
    if run.info.run_name != label.name:
        client.update_run(run_id, name=label.name)


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
        elif run.data.tags.get(Tag.CURRENT) != "false":
            client.set_tag(run.info.run_id, Tag.STATE, str(TrialState.FAILED))
            client.set_tag(run.info.run_id, Tag.REASON, f"tried again as: {deviation or 'it was asked for'}")
            client.set_terminated(run.info.run_id, "FAILED")
            client.set_tag(run.info.run_id, Tag.CURRENT, "false")  # last, as it says that the rest is done
    if found is not None and found.data.tags.get(Tag.CURRENT) == "false":
        client.set_tag(found.info.run_id, Tag.CURRENT, "true")
    return found


def _runs_of(client: MlflowClient, experiment: str, key: str) -> list[Run]:
    return search_runs(client, [experiment], match_trials(key))


def _deviation(run: Run) -> str:
    return str(run.data.tags.get(Tag.DEVIATION, ""))
