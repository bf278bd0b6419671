"""One trial folder -> one run: finds the run again, sends what it lacks, and takes all times from the folder."""

import getpass
import importlib.metadata
import os
import subprocess
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial

import mlflow  # noqa: F401  whole, before its parts (see tracking/__init__.py)
from filelock import FileLock
from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_GIT_COMMIT, MLFLOW_SOURCE_NAME, MLFLOW_SOURCE_TYPE, MLFLOW_USER

from orchestrator.state.files import mark_file
from orchestrator.state.trial.folder import ARTIFACTS, TrialFile, TrialFolder
from orchestrator.state.trial.records import OBJECTIVE, TrialResult, TrialSpec, TrialState
from orchestrator.tracking.client import connect, ensure_experiment, log_all, search_everywhere, search_sweep
from orchestrator.tracking.errors import translate_errors
from orchestrator.tracking.location import TrackingLocation
from orchestrator.tracking.mirror.current_runs import make_current, read_deviation, relabel_runs
from orchestrator.tracking.mirror.ensembles import log_table
from orchestrator.tracking.mirror.run_data import (
    MirroredEpochs,
    continue_series,
    describe_events,
    describe_result,
    describe_trial,
    final_points,
    make_params,
    pick_up_series,
)
from orchestrator.tracking.mirror_state import MirrorState, read_mirror_state, write_mirror_state
from orchestrator.tracking.tags import EnsembleRecord, RunKind, RunLabel, Tag, match_trials

STATUS = {TrialState.COMPLETE: "FINISHED", TrialState.PRUNED: "FINISHED", TrialState.FAILED: "FAILED"}
_ABANDONED_ENSEMBLE_S = 600  # logging one takes seconds
_GONE = {"RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"}  # no such run; a deleted run


class Recorder:
    """Writes trial folders to one tracking location. For one thread; every method may be repeated.

    Raises:
        TrackingError: the server cannot be used; so does every method.
    """

    def __init__(self, location: TrackingLocation) -> None:
        self.location = location
        self.client = connect(location)
        self._identity = _describe_origin()

    def send(self, sweep: str, folder: TrialFolder, *, ended: bool, label: RunLabel | None = None) -> str:
        """Bring the trial's run up to date and return its id.

        ended: no process works in the folder any more. label: the sweep's label for a new run; None: the trial's own name, which
        the first sweep gave it.

        If a run of a finished trial exists of which this folder has sent nothing, the trial was trained elsewhere or earlier:
        the sweep gets a run that refers to it.

        Raises:
            TrialError: the folder is not a trial's.
        """
        with FileLock(folder.path / TrialFile.MIRROR_LOCK, thread_local=False), translate_errors(self.location):
            # The lock keeps out other mirrors of this machine, as of two dispatchers on one sweep: both would create the run.
            result, state = folder.result(), read_mirror_state(folder, str(self.location))
            if state is None and result is not None:
                first = self._find_anywhere(folder.spec().key, result)
                if first is not None and not _is_ahead(first, result):
                    return self._refer(sweep, folder, result, label=label)
                if first is not None and first.data.tags.get(Tag.SWEEP) == sweep:
                    return str(first.info.run_id)
            run_id, owner = self._send_own(sweep, folder, ended=ended, label=label)
            result = folder.result()
            if owner != sweep and result is not None:  # another sweep started the trial, and its experiment keeps the run
                return self._refer(sweep, folder, result, label=label)
            return run_id

    def relabel(self, sweep: str, labels: Mapping[str, RunLabel]) -> None:
        """Rename the sweep's runs as its present plan labels them; labels: key -> label."""
        with translate_errors(self.location):
            relabel_runs(self.client, sweep, labels)

    def record_keep(self, sweep: str, rule: str) -> None:
        """Record which checkpoints the sweep keeps, for `orchestrate clean`."""
        with translate_errors(self.location):
            self.client.set_experiment_tag(ensure_experiment(self.client, self.location, sweep), Tag.KEEP, rule)

    def log_table(self, sweep: str, records: Sequence[EnsembleRecord]) -> list[str]:
        """Record the fixed ensembles of the sweep's table; returns their runs' ids."""
        with translate_errors(self.location):
            return log_table(self.client, self.location, sweep, records)

    def find_abandoned(self, sweep: str, live_keys: Callable[[], Collection[str]]) -> list[str]:
        """Keys of the sweep's RUNNING runs that no process works on; those without a folder on this machine are closed.

        Also closes ensembles whose process was killed while logging them.
        """
        with translate_errors(self.location):
            running = search_sweep(self.client, sweep, "attributes.status = 'RUNNING'")
            live = live_keys() if running else ()
            here: list[str] = []
            for run in running:
                key = run.data.tags.get(Tag.KEY, "")
                kind, age_s = run.data.tags.get(Tag.KIND), time.time() - (run.info.start_time or 0) / 1000
                if kind == RunKind.ENSEMBLE and age_s > _ABANDONED_ENSEMBLE_S:
                    log_all(self.client, run.info.run_id, tags={Tag.STATE: TrialState.FAILED, Tag.CURRENT: "false"})
                    self.client.set_terminated(run.info.run_id, "KILLED")
                if kind != RunKind.TRIAL or key in live:
                    continue
                if TrialFolder(self.location.trials / key).has_trial:
                    here.append(key)
                elif self.client.get_run(run.info.run_id).info.status == "RUNNING":  # another machine may just have ended it
                    self._stop(run.info.run_id)
            return here

    def _refer(self, sweep: str, folder: TrialFolder, result: TrialResult, *, label: RunLabel | None) -> str:
        """Show a cached trial in the sweep's experiment; its files stay with its first run. Returns the run's id."""
        spec, deviation = folder.spec(), result.deviation or ""
        experiment = ensure_experiment(self.client, self.location, sweep)
        find = partial(make_current, self.client, experiment, spec.key, deviation=deviation)
        own, first = find(), self._find_anywhere(spec.key, result)
        if not has_result(first, result):
            # The sweep that trained it ended before its mirror had sent everything.
            owner = first.data.tags.get(Tag.SWEEP, sweep) if first and not _is_ahead(first, result) else sweep
            self._send_own(owner, folder, ended=True, label=label if owner == sweep else None)
            own, first = find(), self._find_anywhere(spec.key, result)
        if own is not None and has_result(own, result):
            return str(own.info.run_id)
        origin: dict[str, str] = {} if first is None else {Tag.CACHED_FROM: str(first.info.run_id)}
        if own is None:
            tags = describe_trial(sweep, spec, deviation=deviation) | origin
            run_id, known = self._create(experiment, spec, tags=tags, start_s=result.started_s, label=label), {}
        else:  # half written, or ended elsewhere
            run_id, known = str(own.info.run_id), own.data.params
            if run_id not in origin.values():
                log_all(self.client, run_id, tags=origin)
        points, progress = continue_series(folder.events()[0], MirroredEpochs())
        params = {name: value for name, value in make_params(spec).items() if name not in known}
        points += final_points(result, progress)
        log_all(self.client, run_id, points=points, params=params, tags=describe_result(result))
        self.client.set_terminated(run_id, STATUS[result.state], round(result.ended_s * 1000))
        return run_id

    def _send_own(self, sweep: str, folder: TrialFolder, *, ended: bool, label: RunLabel | None) -> tuple[str, str]:
        """Bring the folder's own run up to date; returns its id and its sweep, which is ``sweep`` for a new run."""
        state = read_mirror_state(folder, str(self.location)) or MirrorState(server=str(self.location), sweep=sweep)
        if state.deviation != (deviation := read_deviation(folder)):  # a new run, sent from the first epoch on
            state = MirrorState(server=state.server, sweep=state.sweep, deviation=deviation)
        try:
            return self._send(folder, state, ended=ended, label=label if state.sweep == sweep else None), state.sweep
        except MlflowException as error:
            if error.error_code not in _GONE or state.run_id is None:
                raise
        # The run in mirror.json is gone (deleted, or of another database): send everything again.
        state = MirrorState(server=state.server, sweep=sweep, deviation=deviation)
        return self._send(folder, state, ended=ended, label=label), sweep

    def _send(self, folder: TrialFolder, state: MirrorState, *, ended: bool, label: RunLabel | None) -> str:
        spec, result = folder.spec(), folder.result()
        events, offset = folder.events(state.offset)
        run_id = state.run_id
        if run_id is None:
            run_id, state = self._open(state, spec, folder, label=label)
            # at once, so that other machines can see what is being trained
            state = self._send_files(run_id, folder, state.model_copy(update={"run_id": run_id}), names=(TrialFile.SPEC,))
        points, progress = continue_series(events, MirroredEpochs(state.epoch, state.best))
        unfinished = TrialState.WAITING if ended else TrialState.RUNNING
        tags: dict[str, str] = {} if result else {Tag.STATE: unfinished, Tag.REASON: ""}
        log_all(self.client, run_id, points=points, tags=describe_events(events) | tags)
        state = state.model_copy(
            update={"run_id": run_id, "offset": offset, "epoch": progress.epoch, "best": progress.best, "ended": False}
        )
        write_mirror_state(folder, state)
        if ended or result:
            state = self._send_files(run_id, folder, state)
        if result:  # after the files: a run that is COMPLETE has all of them
            log_all(self.client, run_id, points=final_points(result, progress), tags=describe_result(result))
            self.client.set_terminated(run_id, STATUS[result.state], round(result.ended_s * 1000))
        elif ended:
            self._stop(run_id, round(events[-1].time_s * 1000) if events else None)
        elif not state.running:
            self.client.update_run(run_id, "RUNNING")  # a resumed attempt continues its run
        write_mirror_state(folder, state.model_copy(update={"ended": result is not None, "running": not (ended or result)}))
        return run_id

    def _open(
        self, state: MirrorState, spec: TrialSpec, folder: TrialFolder, *, label: RunLabel | None
    ) -> tuple[str, MirrorState]:
        """The trial's run, created if the server has none, and what was sent to it."""
        experiment = ensure_experiment(self.client, self.location, state.sweep)
        run = make_current(self.client, experiment, spec.key, deviation=state.deviation)
        events, _ = folder.events()
        if run is None:
            started_s = events[0].time_s if events else (folder.path / TrialFile.SPEC).stat().st_mtime
            tags = describe_trial(state.sweep, spec, deviation=state.deviation)
            run_id = self._create(experiment, spec, tags=tags, start_s=started_s, label=label)
            log_all(self.client, run_id, params=make_params(spec))
            return run_id, state
        missing = {name: value for name, value in make_params(spec).items() if name not in run.data.params}
        log_all(self.client, run.info.run_id, params=missing)  # params cannot change; a path may differ on this machine
        history = self.client.get_metric_history(run.info.run_id, f"epoch/{OBJECTIVE}")
        begun = pick_up_series(history, events)
        return str(run.info.run_id), state.model_copy(update={"epoch": begun.epoch, "best": begun.best})

    def _create(
        self, experiment: str, spec: TrialSpec, *, tags: Mapping[str, str], start_s: float, label: RunLabel | None
    ) -> str:
        label = label or RunLabel(spec.name)
        every = {**tags, **self._identity, **label.tags}
        run = self.client.create_run(experiment, start_time=round(start_s * 1000), tags=every, run_name=label.name)
        return str(run.info.run_id)

    def _send_files(
        self, run_id: str, folder: TrialFolder, state: MirrorState, *, names: Collection[str] = ARTIFACTS
    ) -> MirrorState:
        """Upload the files that changed since their last upload, and save each upload at once."""
        for name in names:
            path = folder.path / name
            if path.exists() and (mark := mark_file(path)) != state.artifacts.get(name):
                self.client.log_artifact(run_id, str(path), os.path.dirname(name) or None)
                state = state.model_copy(update={"artifacts": state.artifacts | {name: mark}})
                write_mirror_state(folder, state)
        return state

    def _stop(self, run_id: str, end_ms: int | None = None) -> None:
        """Close a run whose trial waits to be resumed."""
        log_all(self.client, run_id, tags={Tag.STATE: str(TrialState.WAITING)})
        self.client.set_terminated(run_id, "KILLED", end_ms)

    def _find_anywhere(self, key: str, result: TrialResult) -> Run | None:
        """The run that first recorded a trial, in any sweep; of several the one that ended with ``result``."""
        runs = search_everywhere(self.client, match_trials(key))
        firsts = [run for run in runs if Tag.CACHED_FROM not in run.data.tags]
        return next((run for run in firsts if has_result(run, result)), firsts[0] if firsts else None)


def has_result(run: Run | None, result: TrialResult) -> bool:
    """Whether the run holds everything of ``result``: the state is sent last."""
    if run is None:
        return False
    tags = run.data.tags
    return tags.get(Tag.STATE) == result.state and tags.get(Tag.ATTEMPT) == str(result.attempt)


def _is_ahead(run: Run, result: TrialResult) -> bool:
    """Whether another machine succeeded where this one did not: its success stands."""
    return run.data.tags.get(Tag.STATE) == TrialState.COMPLETE and result.state is not TrialState.COMPLETE


def _describe_origin() -> dict[str, str]:
    """Tags about the user and the commit of the working directory."""
    tags: dict[str, str] = {
        Tag.ORCHESTRATE_VERSION: importlib.metadata.version("orchestrate"),
        MLFLOW_SOURCE_NAME: "orchestrate",
        MLFLOW_SOURCE_TYPE: "LOCAL",
        MLFLOW_USER: getpass.getuser(),
    }
    try:
        commit = subprocess.run(
            ["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True, timeout=5
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return tags  # not a repository, or no git
    return tags | {MLFLOW_GIT_COMMIT: commit}
