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
from orchestrator.tracking.mirror_state import read_mirror_state

if TYPE_CHECKING:
    from orchestrator.tracking.checkpoints.store import CheckpointStore

_RETRY_S, _CLOSING_RETRY_S = 30.0, 1.0
"""Pause between two tries when the server does not answer."""

_log = logging.getLogger(__name__)


@dataclass
class _Upload:
    """has_news: there may be a newer checkpoint than the last one sent. ended: no process works in the folder."""

    folder: TrialFolder
    due_s: float
    has_news: bool = True
    ended: bool = False


def open_checkpoints(location: TrackingLocation) -> Callable[[], CheckpointStore] | None:
    """A function that opens the server's checkpoint store; None if no other machine could resume this one's trials.

    That is so if the records are in a database, or if the ledger belongs to this machine alone.
    """

    def open_store() -> CheckpointStore:
        from orchestrator.tracking.checkpoints.store import CheckpointStore  # imports mlflow

        return CheckpointStore(location)

    return None if location.is_database or not location.is_shared else open_store


class CheckpointUploads:
    """Sends a running trial's checkpoint every ``every_s`` seconds and when its attempt stops; deletes it when the trial ends.

    One upload runs at a time, and the pause begins after it: a slow server gets fewer. No method but ``close`` ever waits.
    """

    def __init__(self, open_store: Callable[[], CheckpointStore], server: str, every_s: float) -> None:
        self._server = server
        self._every_s = every_s
        self._uploads: dict[str, _Upload] = {}
        self._open_store = cache(open_store)
        self._is_busy = False
        self._closing = self._stopped = False
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def note(self, folder: TrialFolder, *, ended: bool) -> None:
        """The folder was mirrored: it may have a new checkpoint, or its attempt has ended."""
        with self._changed:
            now_s = time.monotonic()
            upload = self._uploads.setdefault(folder.path.name, _Upload(folder, now_s + self._every_s))
            upload.folder, upload.has_news, upload.ended = folder, True, ended
            if ended:
                upload.due_s = now_s
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="checkpoints", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def close(self, timeout_s: float) -> None:
        """Wait until checkpoints of stopped attempts are sent and those of ended trials deleted; at most ``timeout_s``."""
        deadline_s = time.monotonic() + timeout_s
        with self._changed:
            self._closing = True
            self._uploads = {key: upload for key, upload in self._uploads.items() if upload.ended}
            for upload in self._uploads.values():
                upload.due_s = 0.0
            self._changed.notify_all()
            while (self._uploads or self._is_busy) and (left_s := deadline_s - time.monotonic()) > 0:
                self._changed.wait(left_s)
            self._stopped = True
            self._changed.notify_all()

    def _work(self) -> None:
        while (upload := self._take()) is not None:
            is_done = True
            try:
                self._update(upload.folder)
            except RefusedError as error:
                _log.warning("The checkpoint of %s is not uploaded: %s", upload.folder.path.name, error)
            except TrackingError as error:  # the mirror logs this one
                _log.debug("checkpoint of %s: %s", upload.folder.path.name, error)
                is_done = False
            except Exception as error:  # of any kind: the other trials' checkpoints must still be sent
                _log.warning("The checkpoint of %s is not uploaded yet: %s: %s", upload.folder.path, type(error).__name__, error)
                is_done = False
            self._put_back(upload, is_done=is_done)

    def _update(self, folder: TrialFolder) -> None:
        mark = folder.path / TrialFile.MIRRORED
        if folder.result() is not None:
            if mark.exists():
                self._open_store().withdraw(folder.path.name)
                mark.unlink(missing_ok=True)
            return
        state = read_mirror_state(folder, self._server)
        if state is not None and state.run_id is not None and (folder.path / TrialFile.CHECKPOINT).exists():
            mark.touch()
            self._open_store().send(folder, state.run_id)

    def _take(self) -> _Upload | None:
        """The next upload that is due; None when there will be none."""
        with self._changed:
            while not self._stopped:
                now_s = time.monotonic()
                waiting = [upload for upload in self._uploads.values() if upload.has_news]
                upload = min(waiting, key=lambda upload: upload.due_s, default=None)
                if upload is not None and upload.due_s <= now_s:
                    upload.has_news = False
                    self._is_busy = True
                    return upload
                self._changed.wait(None if upload is None else upload.due_s - now_s)
            return None

    def _put_back(self, upload: _Upload, *, is_done: bool) -> None:
        with self._changed:
            self._is_busy = False
            if not is_done:
                upload.has_news = True
                upload.due_s = time.monotonic() + (_CLOSING_RETRY_S if self._closing else _RETRY_S)
            elif not upload.has_news or not upload.ended:
                upload.due_s = time.monotonic() + self._every_s
                if upload.ended:
                    self._uploads.pop(upload.folder.path.name, None)
            self._changed.notify_all()
