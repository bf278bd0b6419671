"""What the records know of checkpoints: which sweeps keep how many, whose runs hold the files, who is member of an ensemble."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

import mlflow  # noqa: F401  whole, before its parts (see __init__.py)
from mlflow.entities import Run

from orchestrator.state.trial.records import OBJECTIVE, TrialState
from orchestrator.tracking.client import all_experiments, connect, search_runs
from orchestrator.tracking.errors import translate_errors
from orchestrator.tracking.location import TrackingLocation
from orchestrator.tracking.tags import RunKind, Tag, match_tags, match_trials, read_weights


@dataclass(frozen=True)
class CheckpointRun:
    """A trial's run. miou, scored: as it was logged. holds_files: not one that refers to another's."""

    run_id: str
    sweep: str
    key: str
    state: str
    miou: float | None
    scored: str | None
    holds_files: bool
    files: Path | None
    """The folder of its files, where that is this home's own and may be removed from; None where a server keeps them."""


@dataclass(frozen=True)
class Records:
    """What there is, at one moment. rules: sweep -> what it recorded of its ``keep``. members: keys that ensembles need."""

    rules: Mapping[str, str]
    runs: Sequence[CheckpointRun]
    members: frozenset[str]


class CheckpointRecords:
    """Reads the records of one tracking place, and notes what was removed. Used by one thread.

    Raises:
        TrackingError: the server cannot be used; so does every method.
    """

    def __init__(self, location: TrackingLocation) -> None:
        self._location = location
        self._client = connect(location)

    def read(self) -> Records:
        """The current runs of all trials, in whatever sweep, and the members of every ensemble that can be predicted with."""
        with translate_errors(self._location):
            experiments = all_experiments(self._client)
            ids = [str(found.experiment_id) for found in experiments]
            trials = search_runs(self._client, ids, match_tags({Tag.KIND: RunKind.TRIAL, Tag.CURRENT: "true"}))
            ensembles = search_runs(self._client, ids, match_tags({Tag.KIND: RunKind.ENSEMBLE, Tag.STATE: TrialState.COMPLETE}))
        return Records(
            rules={found.name: found.tags[Tag.KEEP] for found in experiments if Tag.KEEP in found.tags},
            runs=[self._describe(run) for run in trials],
            members=frozenset(key for run in ensembles for key in read_weights(run)),
        )

    def list_files(self, run_id: str) -> dict[str, int]:
        """Name -> bytes of the files that a run holds now."""
        with translate_errors(self._location):
            return {str(file.path): int(file.file_size or 0) for file in self._client.list_artifacts(run_id) if not file.is_dir}

    def note_removal(self, run_id: str, reason: str) -> None:
        """Say on the run's page that its checkpoint was removed."""
        with translate_errors(self._location):
            self._client.set_tag(run_id, Tag.CHECKPOINT_REMOVED, reason)

    def set_waiting(self, key: str, reason: str) -> None:
        """Let no run of a trial count as finished, in whatever sweep, so that nobody takes its result for granted."""
        with translate_errors(self._location):
            ids = [str(found.experiment_id) for found in all_experiments(self._client)]
            for run in search_runs(self._client, ids, match_trials(key)):
                if run.data.tags.get(Tag.STATE) in (TrialState.COMPLETE, TrialState.FAILED):
                    self._client.set_tag(run.info.run_id, Tag.REASON, reason)
                    self._client.set_tag(run.info.run_id, Tag.STATE, str(TrialState.WAITING))

    def _describe(self, run: Run) -> CheckpointRun:
        tags = run.data.tags
        return CheckpointRun(
            run_id=str(run.info.run_id),
            sweep=tags.get(Tag.SWEEP, ""),
            key=tags.get(Tag.KEY, ""),
            state=tags.get(Tag.STATE, ""),
            miou=run.data.metrics.get(OBJECTIVE),
            scored=tags.get(Tag.SCORED_FINGERPRINT),
            holds_files=Tag.CACHED_FROM not in tags,
            files=_find_own(self._location, run),
        )


def _find_own(location: TrackingLocation, run: Run) -> Path | None:
    """The folder of a run's files below this home's artifacts."""
    address = urlsplit(str(run.info.artifact_uri))
    if address.scheme not in ("", "file") or not location.is_database:
        return None
    folder = Path(url2pathname(address.path))
    return folder if folder.is_relative_to(location.artifacts.absolute()) else None
