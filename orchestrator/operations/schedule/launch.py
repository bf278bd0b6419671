"""Runs `orchestrate sweep` for an occurrence, as a process that ends with the scheduler, and reads its result."""

from __future__ import annotations

import json
import signal
import subprocess
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from orchestrator.operations.schedule.record import Occurrence, ScheduleRecord
from orchestrator.state.home import Home
from orchestrator.state.trial.folder import TrialFolder
from orchestrator.state.trial.records import TrialState


class SweepProcess:
    """A sweep's process in a session of its own: only the scheduler receives Ctrl-C, and forwards it.

    on_end: called in a separate thread with the exit code, which is negative after a signal.
    """

    def __init__(self, id: str, command: Sequence[str], record: ScheduleRecord, on_end: Callable[[int], None]) -> None:
        record.folder.mkdir(parents=True, exist_ok=True)
        with open(record.document_of(id), "wb") as document, open(record.log_of(id), "ab") as log:
            self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=document, stderr=log, start_new_session=True)
        threading.Thread(target=self._wait, args=(on_end,), name=f"wait for {id}", daemon=True).start()

    def stop(self) -> None:
        """Ask for a graceful stop; a second call asks for an immediate one."""
        self._process.send_signal(signal.SIGINT)

    def _wait(self, on_end: Callable[[int], None]) -> None:
        code = self._process.wait()
        if self._process.stdin is not None:
            self._process.stdin.close()
        on_end(code)


def count_trials(occurrence: Occurrence, record: ScheduleRecord) -> dict[str, int]:
    """State -> number of trials, from the JSON that the sweep printed; empty if it printed none."""
    return dict(Counter(str(trial["state"]) for trial in _read_trials(occurrence, record)))


def has_news(occurrence: Occurrence, record: ScheduleRecord, home: Home) -> bool:
    """Whether anything was trained since the occurrence first started."""
    started_s = occurrence.started.timestamp() if occurrence.started else 0.0
    for trial in _read_trials(occurrence, record):
        if trial["state"] == TrialState.COMPLETE:
            return True
        result = TrialFolder(home.trial_folder(trial["key"])).result()
        if result is not None and result.ended_s >= started_s:
            return True
    return False


def _read_trials(occurrence: Occurrence, record: ScheduleRecord) -> list[dict[str, Any]]:
    try:
        document = json.loads(record.document_of(occurrence.id).read_bytes())
    except (FileNotFoundError, ValueError):  # it was killed or refused
        return []
    return list(document["trials"])
