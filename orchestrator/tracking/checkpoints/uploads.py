"""The mirror's second thread: sends checkpoints of running trials to the server, so that metrics never wait for large files."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from orchestrator.errors import TrackingError
from orchestrator.state.trial.folder import TrialFile, TrialFolder
from orchestrator.tracking.location import RefusedError, TrackingLocation
from orchestrator.tracking.mirrored import read_sent

if TYPE_CHECKING:
    from orchestrator.tracking.checkpoints.store import CheckpointStore

_RETRY_S, _CLOSING_RETRY_S = 30.0, 1.0
"""Between two tries, where the server does not answer."""

_log = logging.getLogger(__name__)


@dataclass
class _Task:
    """has_news: since it was seen to last. ended: no process works in the folder."""

    folder: TrialFolder
    due_s: float
    has_news: bool = True
    ended: bool = False


def open_checkpoints(location: TrackingLocation) -> Callable[[], CheckpointStore] | None:
    """What opens the checkpoints of a server; None where they stay in their trial folders: records are in a database, or the
    ledger is this machine's alone, so that no other could ever go on with its trials.
    """

    def open_store() -> CheckpointStore:
        from orchestrator.tracking.checkpoints.store import CheckpointStore  # imports mlflow

        return CheckpointStore(location)

    return None if location.is_database or not location.is_shared else open_store


class CheckpointUploads:
    """Sends a running trial's checkpoint every ``every_s`` seconds, and at once where its attempt was stopped; removes it when
    the trial has ended. No method but ``close`` ever waits. One is sent at a time, and the pause begins when it is there: a slow
    server gets fewer of them.
    """

    def __init__(self, open_store: Callable[[], CheckpointStore], server: str, every_s: float) -> None:
        self._server = server
        self._every_s = every_s
        self._tasks: dict[str, _Task] = {}
        self._open_store = cache(open_store)
        self._is_busy = False
        self._closing = self._stopped = False
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def note(self, folder: TrialFolder, *, ended: bool) -> None:
        """What the folder tells is on the server; it may have a new checkpoint, or its attempt has ended."""
        with self._changed:
            now_s = time.monotonic()
            task = self._tasks.setdefault(folder.path.name, _Task(folder, now_s + self._every_s))
            task.folder, task.has_news, task.ended = folder, True, ended
            if ended:
                task.due_s = now_s
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="checkpoints", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def close(self, timeout_s: float) -> None:
        """Wait until those of stopped attempts are sent, and those of ended trials removed; at most ``timeout_s``."""
        deadline_s = time.monotonic() + timeout_s
        with self._changed:
            self._closing = True
            self._tasks = {key: task for key, task in self._tasks.items() if task.ended}
            for task in self._tasks.values():
                task.due_s = 0.0
            self._changed.notify_all()
            while (self._tasks or self._is_busy) and (left_s := deadline_s - time.monotonic()) > 0:
                self._changed.wait(left_s)
            self._stopped = True
            self._changed.notify_all()

    def _work(self) -> None:
        while (task := self._take()) is not None:
            is_done = True
            try:
                self._see_to(task.folder)
            except RefusedError as error:
                _log.warning("The checkpoint of %s is not mirrored: %s", task.folder.path.name, error)
            except TrackingError as error:  # of which the mirror itself tells
                _log.debug("checkpoint of %s: %s", task.folder.path.name, error)
                is_done = False
            except Exception as error:  # whatever it is, those of the other trials are to be sent
                _log.warning("The checkpoint of %s is not mirrored yet: %s: %s", task.folder.path, type(error).__name__, error)
                is_done = False
            self._put_back(task, is_done=is_done)

    def _see_to(self, folder: TrialFolder) -> None:
        mark = folder.path / TrialFile.MIRRORED
        if folder.result() is not None:
            if mark.exists():
                self._open_store().withdraw(folder.path.name)
                mark.unlink(missing_ok=True)
            return
        sent = read_sent(folder, self._server)
        if sent is not None and sent.run_id is not None and folder.checkpoint.exists():
            mark.touch()
            self._open_store().send(folder, sent.run_id)

    def _take(self) -> _Task | None:
        """The next one that is due; None when there will be none."""
        with self._changed:
            while not self._stopped:
                now_s = time.monotonic()
                waiting = [task for task in self._tasks.values() if task.has_news]
                task = min(waiting, key=lambda task: task.due_s, default=None)
                if task is not None and task.due_s <= now_s:
                    task.has_news = False
                    self._is_busy = True
                    return task
                self._changed.wait(None if task is None else task.due_s - now_s)
            return None

    def _put_back(self, task: _Task, *, is_done: bool) -> None:
        with self._changed:
            self._is_busy = False
            if not is_done:
                task.has_news = True
                task.due_s = time.monotonic() + (_CLOSING_RETRY_S if self._closing else _RETRY_S)
            elif not task.has_news or not task.ended:
                task.due_s = time.monotonic() + self._every_s
                if task.ended:
                    self._tasks.pop(task.folder.path.name, None)
            self._changed.notify_all()
