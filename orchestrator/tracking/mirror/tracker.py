"""The dispatcher's tracker: queues what has to be mirrored without waiting; a thread sends it to the server."""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from orchestrator.errors import TrackingError
from orchestrator.state.trial.folder import TrialFolder
from orchestrator.tracking.checkpoints.uploads import CheckpointUploads, open_checkpoints
from orchestrator.tracking.location import RefusedError, TrackingLocation
from orchestrator.tracking.tags import EnsembleRecord, RunLabel

if TYPE_CHECKING:
    from orchestrator.tracking.mirror.recorder import Recorder

_log = logging.getLogger(__name__)
_MAX_BACKOFF_S, _CLOSING_BACKOFF_S = 30.0, 1.0
_TABLE, _KEEP = "table", "keep"  # names of the queue's entries that are no trials


@dataclass
class _Task:
    run: Callable[[Recorder], None]
    folder: TrialFolder | None
    failures: int = 0
    not_before_s: float = 0.0
    trouble: str | None = None
    """Why it failed, if the server is not to blame."""
    logged: str | None = None
    """Why it failed, as last logged."""
    is_refused: bool = False
    """The server refuses it as it is: waiting does not help."""


class MlflowTracker:
    """Mirrors trial folders to MLflow. No method but ``close`` ever waits, whatever the server does.

    The queue holds which folders have news, not the news itself: a slow server makes batches larger, but the queue no longer.
    Failed tasks are retried with growing pauses. What ``close`` returns is still in its folder: the next sweep with that trial
    sends it. Any thread may call the methods.

    takeover_s: pause between two uploads of a running trial's checkpoint, from which other machines can resume; None: no uploads.
    The uploads have their own thread.
    """

    def __init__(self, location: TrackingLocation, *, takeover_s: float | None = None) -> None:
        self._location = location
        self._checkpoints: CheckpointUploads | None = None
        if takeover_s is not None and (open_store := open_checkpoints(location)) is not None:
            self._checkpoints = CheckpointUploads(open_store, str(location), takeover_s)
        self._pending: OrderedDict[tuple[str, str], _Task] = OrderedDict()
        self._current: tuple[tuple[str, str], _Task] | None = None
        self._run_ids: dict[tuple[str, str], str] = {}
        self._labels: dict[str, dict[str, RunLabel]] = {}
        self._trouble: str | None = None
        self._closing = self._stopped = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._work, name="mirror", daemon=True)
        self._thread.start()

    def mirror(self, sweep: str, folder: TrialFolder, ended: bool) -> None:
        """Send what is new in the folder. ended: no process works in it any more."""

        def run(recorder: Recorder) -> None:
            label = self._labels_of(sweep).get(folder.path.name)
            run_id = recorder.send(sweep, folder, ended=ended, label=label)
            self._run_ids[sweep, folder.path.name] = run_id
            if self._checkpoints is not None:
                self._checkpoints.note(folder, ended=ended)

        self._put((sweep, folder.path.name), _Task(run, folder))

    def label(self, sweep: str, labels: Mapping[str, RunLabel]) -> None:
        """Set the sweep's labels for some trials: key -> label. Labels of other keys stay."""
        with self._changed:
            self._labels[sweep] = {**self._labels.get(sweep, {}), **labels}

    def reconcile(self, sweep: str, live_keys: Callable[[], Collection[str]]) -> None:
        """Close the sweep's RUNNING runs that no process works on, after sending what their folders still hold.

        Also renames existing runs as ``label`` set. live_keys: called in the mirror's thread after the runs were listed, to
        include trials that others have started meanwhile.
        """

        def run(recorder: Recorder) -> None:
            if labels := self._labels_of(sweep):
                recorder.relabel(sweep, labels)
            for key in recorder.find_abandoned(sweep, live_keys):
                with self._changed:
                    has_newer = (sweep, key) in self._pending
                if not has_newer:
                    self.mirror(sweep, TrialFolder(self._location.trials / key), True)

        self._put((sweep, ""), _Task(run, None))

    def record_keep(self, sweep: str, rule: str) -> None:
        """Record which checkpoints the sweep keeps."""
        self._put((sweep, _KEEP), _Task(lambda recorder: recorder.record_keep(sweep, rule), None))

    def log_table(self, sweep: str, records: Sequence[EnsembleRecord]) -> None:
        """Record all fixed ensembles of the sweep's table; others belong to an earlier table."""

        def run(recorder: Recorder) -> None:
            run_ids = recorder.log_table(sweep, records)
            self._run_ids.update({(sweep, record.name): run_id for record, run_id in zip(records, run_ids, strict=True)})

        self._put((sweep, _TABLE), _Task(run, None))

    def run_id(self, sweep: str, key: str) -> str | None:
        """The run of a trial, or of an ensemble by its record's name, in the sweep's experiment; None until the server has it."""
        return self._run_ids.get((sweep, key))

    @property
    def trouble(self) -> str | None:
        """Why the last attempt to reach the server failed, or what the server refused; None if nothing is wrong."""
        with self._changed:
            return self._trouble or next((task.trouble for task in self._pending.values() if task.trouble), None)

    def close(self, timeout_s: float) -> list[TrialFolder]:
        """Wait until everything is mirrored, at most ``timeout_s``; returns the folders that are not fully on the server."""
        deadline = time.monotonic() + timeout_s
        with self._changed:
            self._closing = True
            for task in self._pending.values():
                task.not_before_s, task.is_refused = 0.0, False
            self._changed.notify_all()
            while (left := deadline - time.monotonic()) > 0 and self._thread.is_alive():
                if self._current is None and all(task.is_refused for task in self._pending.values()):
                    break
                self._changed.wait(left)
            self._stopped = True
            self._changed.notify_all()
            tasks = [*self._pending.values(), *([self._current[1]] if self._current else [])]
        if self._checkpoints is not None:
            self._checkpoints.close(max(0.0, deadline - time.monotonic()))
        return list({task.folder.path: task.folder for task in tasks if task.folder is not None}.values())

    def _labels_of(self, sweep: str) -> Mapping[str, RunLabel]:
        with self._changed:
            return self._labels.get(sweep, {})

    def _put(self, name: tuple[str, str], task: _Task) -> None:
        with self._changed:
            before = self._pending.get(name)
            if before is not None:  # keeps its position in the queue; the folder holds the news of both
                task.failures, task.not_before_s = before.failures, before.not_before_s
                task.trouble, task.logged = before.trouble, before.logged
            self._pending[name] = task
            self._changed.notify_all()

    def _work(self) -> None:
        recorder: Recorder | None = None
        while (taken := self._take()) is not None:
            name, task = taken
            try:
                if recorder is None:
                    from orchestrator.tracking.mirror.recorder import Recorder  # imports mlflow: only this thread waits for it

                    recorder = Recorder(self._location)
                task.run(recorder)
            except RefusedError as error:
                self._keep(name, task, trouble=str(error), is_server=False, is_refused=True)
            except TrackingError as error:
                self._keep(name, task, trouble=str(error), is_server=True)
            except Exception as error:  # of any kind: this thread must survive, and the task is logged and retried
                _log.debug("mirror of %s", name, exc_info=True)
                self._keep(name, task, trouble=f"{type(error).__name__}: {error}", is_server=False)
            else:
                with self._changed:
                    self._current = self._trouble = None
                    self._changed.notify_all()

    def _take(self) -> tuple[tuple[str, str], _Task] | None:
        """The next task that is due; None when there will be none."""
        with self._changed:
            while not self._stopped:
                now = time.monotonic()
                for name, task in self._pending.items():
                    if task.not_before_s <= now:
                        del self._pending[name]
                        self._current = (name, task)
                        return self._current
                if self._closing and not self._pending:
                    return None
                self._changed.wait(min((task.not_before_s - now for task in self._pending.values()), default=None))
            return None

    def _keep(self, name: tuple[str, str], task: _Task, *, trouble: str, is_server: bool, is_refused: bool = False) -> None:
        with self._changed:
            self._current = None
            task.failures += 1
            limit_s = _CLOSING_BACKOFF_S if self._closing else _MAX_BACKOFF_S
            task.not_before_s = time.monotonic() + min(0.5 * 2 ** min(task.failures - 1, 10), limit_s)
            newer = self._pending.get(name)
            kept = newer or task
            kept.failures, kept.not_before_s = task.failures, task.not_before_s
            self._pending[name] = kept
            self._pending.move_to_end(name, last=False)
            kept.is_refused = is_refused and newer is None
            # An outage is logged once, although each request words it differently. If the server accepts other requests
            # meanwhile, because only its file store is full, each refused one is logged.
            if trouble != task.logged and not (is_server and self._trouble is not None):
                _log.warning("Not mirrored yet, will be retried: %s", trouble)
            if is_server:  # the others would fail too: they wait as well, and none waits for its own time-out
                for other in self._pending.values():
                    other.not_before_s = max(other.not_before_s, kept.not_before_s)
                self._trouble = trouble
            kept.logged = trouble
            kept.trouble = None if is_server else trouble
            self._changed.notify_all()
