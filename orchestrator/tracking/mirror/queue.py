"""The dispatcher's tracker: takes note of what has to be mirrored at once, and tells the server in a thread of its own."""

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
_TABLE, _RULE = "table", "rule"  # places in the queue of a sweep's ensembles and of its rule; no trial's keys


@dataclass
class _Job:
    run: Callable[[Recorder], None]
    folder: TrialFolder | None
    failures: int = 0
    not_before_s: float = 0.0
    trouble: str | None = None
    """Why it failed, where that is its own fault and not the server's."""
    told: str | None = None
    """Why it failed, whosever fault that was, as it was told last."""
    is_refused: bool = False
    """The server will not take it as it is: nobody waits for that to change."""

    def postpone(self, limit_s: float) -> None:
        self.failures += 1
        self.not_before_s = time.monotonic() + min(0.5 * 2 ** min(self.failures - 1, 10), limit_s)


class MlflowTracker:
    """Mirrors trial folders to MLflow. No method but ``close`` ever waits, whatever the server does.

    The trial folder is the truth, so the queue holds which folders have news, not the news: a slow server makes batches
    larger and the queue no longer. What fails is kept and tried again with growing pauses; what ``close`` gives back is
    still in its folder and is sent by the next sweep that meets the trial. Methods may be called by any thread.

    takeover_s: between two uploads of a running trial's checkpoint to a server, for other machines to go on from; None: there are
    none. They have a thread of their own.
    """

    def __init__(self, location: TrackingLocation, *, takeover_s: float | None = None) -> None:
        self._location = location
        self._checkpoints: CheckpointUploads | None = None
        if takeover_s is not None and (open_store := open_checkpoints(location)) is not None:
            self._checkpoints = CheckpointUploads(open_store, str(location), takeover_s)
        self._pending: OrderedDict[tuple[str, str], _Job] = OrderedDict()
        self._current: tuple[tuple[str, str], _Job] | None = None
        self._run_ids: dict[tuple[str, str], str] = {}
        self._labels: dict[str, dict[str, RunLabel]] = {}
        self._trouble: str | None = None
        self._closing = self._stopped = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._work, name="mirror", daemon=True)
        self._thread.start()

    def mirror(self, sweep: str, folder: TrialFolder, ended: bool) -> None:
        """The folder has news. ``ended``: no process works in it any more."""

        def run(recorder: Recorder) -> None:
            label = self._labels_of(sweep).get(folder.path.name)
            run_id = recorder.send(sweep, folder, ended=ended, label=label)
            self._run_ids[sweep, folder.path.name] = run_id
            if self._checkpoints is not None:
                self._checkpoints.note(folder, ended=ended)

        self._put((sweep, folder.path.name), _Job(run, folder))

    def label(self, sweep: str, labels: Mapping[str, RunLabel]) -> None:
        """Take note how the sweep calls its trials: key -> label. What was noted for other keys stays."""
        with self._changed:
            self._labels[sweep] = {**self._labels.get(sweep, {}), **labels}

    def reconcile(self, sweep: str, live_keys: Callable[[], Collection[str]]) -> None:
        """Let no run of the sweep stay RUNNING whose trial nobody works on; what its folder still has to tell is told first.

        Runs that the sweep has already are called as ``label`` said. live_keys: asked in the mirror's thread, when it is known
        which runs there are, so that it counts in what others have begun meanwhile.
        """

        def run(recorder: Recorder) -> None:
            if labels := self._labels_of(sweep):
                recorder.relabel(sweep, labels)
            for key in recorder.find_abandoned(sweep, live_keys):
                with self._changed:
                    has_newer = (sweep, key) in self._pending
                if not has_newer:
                    self.mirror(sweep, TrialFolder(self._location.trials / key), True)

        self._put((sweep, ""), _Job(run, None))

    def note_rule(self, sweep: str, rule: str) -> None:
        """Record which checkpoints the sweep keeps."""
        self._put((sweep, _RULE), _Job(lambda recorder: recorder.note_rule(sweep, rule), None))

    def log_table(self, sweep: str, records: Sequence[EnsembleRecord]) -> None:
        """Record the fixed ensembles of the sweep's table, all of them: what is not among them is of an earlier table."""

        def run(recorder: Recorder) -> None:
            run_ids = recorder.log_table(sweep, records)
            self._run_ids.update({(sweep, record.name): run_id for record, run_id in zip(records, run_ids, strict=True)})

        self._put((sweep, _TABLE), _Job(run, None))

    def run_id(self, sweep: str, key: str) -> str | None:
        """The run, once the server has it, of a trial in the sweep's experiment, or of an ensemble by its record's name."""
        return self._run_ids.get((sweep, key))

    @property
    def trouble(self) -> str | None:
        """Why the last attempt to reach the server failed, or what the server refused; None while all is well."""
        with self._changed:
            return self._trouble or next((job.trouble for job in self._pending.values() if job.trouble), None)

    def close(self, timeout_s: float) -> list[TrialFolder]:
        """Wait until everything is mirrored, at most ``timeout_s``; returns the folders whose news are not on the server yet."""
        deadline = time.monotonic() + timeout_s
        with self._changed:
            self._closing = True
            for job in self._pending.values():
                job.not_before_s, job.is_refused = 0.0, False
            self._changed.notify_all()
            while self._may_get_on() and (left := deadline - time.monotonic()) > 0 and self._thread.is_alive():
                self._changed.wait(left)
            self._stopped = True
            self._changed.notify_all()
            jobs = [*self._pending.values(), *([self._current[1]] if self._current else [])]
        if self._checkpoints is not None:
            self._checkpoints.close(max(0.0, deadline - time.monotonic()))
        return list({job.folder.path: job.folder for job in jobs if job.folder is not None}.values())

    def _labels_of(self, sweep: str) -> Mapping[str, RunLabel]:
        with self._changed:
            return self._labels.get(sweep, {})

    def _may_get_on(self) -> bool:
        return self._current is not None or any(not job.is_refused for job in self._pending.values())

    def _put(self, name: tuple[str, str], job: _Job) -> None:
        with self._changed:
            before = self._pending.get(name)
            if before is not None:  # keeps its place in the queue; the folder tells both news
                job.failures, job.not_before_s = before.failures, before.not_before_s
                job.trouble, job.told = before.trouble, before.told
            self._pending[name] = job
            self._changed.notify_all()

    def _work(self) -> None:
        recorder: Recorder | None = None
        while (taken := self._take()) is not None:
            name, job = taken
            try:
                if recorder is None:
                    recorder = self._connect()
                job.run(recorder)
            except RefusedError as error:
                self._keep(name, job, trouble=str(error), is_server=False, is_refused=True)
            except TrackingError as error:
                self._keep(name, job, trouble=str(error), is_server=True)
            except (
                Exception
            ) as error:  # whatever it is, this thread must live: a job that fails is kept, told of, and tried again
                _log.debug("mirror of %s", name, exc_info=True)
                self._keep(name, job, trouble=f"{type(error).__name__}: {error}", is_server=False)
            else:
                self._done()

    def _connect(self) -> Recorder:
        from orchestrator.tracking.mirror.recorder import Recorder  # imports mlflow: two seconds that only this thread waits

        return Recorder(self._location)

    def _take(self) -> tuple[tuple[str, str], _Job] | None:
        """The next job that is due; None when there will be none."""
        with self._changed:
            while not self._stopped:
                now = time.monotonic()
                for name, job in self._pending.items():
                    if job.not_before_s <= now:
                        del self._pending[name]
                        self._current = (name, job)
                        return self._current
                if self._closing and not self._pending:
                    return None
                self._changed.wait(min((job.not_before_s - now for job in self._pending.values()), default=None))
            return None

    def _keep(self, name: tuple[str, str], job: _Job, *, trouble: str, is_server: bool, is_refused: bool = False) -> None:
        with self._changed:
            self._current = None
            job.postpone(_CLOSING_BACKOFF_S if self._closing else _MAX_BACKOFF_S)
            newer = self._pending.get(name)
            kept = newer or job
            kept.failures, kept.not_before_s = job.failures, job.not_before_s
            self._pending[name] = kept
            self._pending.move_to_end(name, last=False)
            kept.is_refused = is_refused and newer is None
            # an outage is told once, though each request words it in its own way; and where the server takes other things
            # meanwhile, because only its store of files is full, each thing that it does not take
            if trouble != job.told and not (is_server and self._trouble is not None):
                _log.warning("Not mirrored yet, will be tried again: %s", trouble)
            if is_server:  # the others would meet the same: nobody overtakes, nobody waits for a time-out each
                for other in self._pending.values():
                    other.not_before_s = max(other.not_before_s, kept.not_before_s)
                self._trouble = trouble
            kept.told = trouble
            kept.trouble = None if is_server else trouble
            self._changed.notify_all()

    def _done(self) -> None:
        with self._changed:
            self._current = None
            self._trouble = None
            self._changed.notify_all()
