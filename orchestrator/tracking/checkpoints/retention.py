"""What MLflow knows about checkpoints: each sweep's `keep` rule, the runs that hold files, and the members of ensembles."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

import mlflow  # noqa: F401  whole, before its parts (see tracking/__init__.py)
from mlflow.entities import Run

from orchestrator.state.trial.records import OBJECTIVE, TrialState
from orchestrator.tracking.client import all_experiments, connect, log_all, search_everywhere, search_runs
from orchestrator.tracking.errors import translate_errors
from orchestrator.tracking.location import TrackingLocation
from orchestrator.tracking.tags import RunKind, Tag, match_tags, match_trials, read_weights


@dataclass(frozen=True)
class CheckpointRun:
    """A trial's run. holds_files: it does not refer to another run's files."""

    run_id: str
    sweep: str
    key: str
    state: str
    miou: float | None
    scored: str | None
    """Fingerprint of the images, labels and classes it was scored on."""
    holds_files: bool
    files: Path | None
    """The folder of its files, if it belongs to this home; None if a server keeps them."""


@dataclass(frozen=True)
class CheckpointSnapshot:
    """What MLflow knows at one moment. rules: sweep -> its recorded ``keep`` rule. members: keys that ensembles need."""

    rules: Mapping[str, str]
    runs: Sequence[CheckpointRun]
    members: frozenset[str]


class CheckpointRecords:
    """Reads what one tracking location knows about checkpoints, and records removals. For one thread.

    Raises:
        TrackingError: the server cannot be used; so does every method.
    """

    def __init__(self, location: TrackingLocation) -> None:
        self._location = location
        self._client = connect(location)

    def read(self) -> CheckpointSnapshot:
        """The current runs of all trials in all sweeps, and the members of all complete ensembles."""
        with translate_errors(self._location):
            experiments = all_experiments(self._client)
            ids = [str(found.experiment_id) for found in experiments]
            trials = search_runs(self._client, ids, match_tags({Tag.KIND: RunKind.TRIAL, Tag.CURRENT: "true"}))
            ensembles = search_runs(self._client, ids, match_tags({Tag.KIND: RunKind.ENSEMBLE, Tag.STATE: TrialState.COMPLETE}))
        return CheckpointSnapshot(
            rules={found.name: found.tags[Tag.KEEP] for found in experiments if Tag.KEEP in found.tags},
            runs=[self._describe(run) for run in trials],
            members=frozenset(key for run in ensembles for key in read_weights(run.data.params)),
        )

    def list_files(self, run_id: str) -> dict[str, int]:
        """Name -> bytes of a run's files."""
        with translate_errors(self._location):
            return {str(file.path): int(file.file_size or 0) for file in self._client.list_artifacts(run_id) if not file.is_dir}

    def record_removal(self, run_id: str, reason: str) -> None:
        """Show on the run's page why its checkpoint was removed."""
        with translate_errors(self._location):
            self._client.set_tag(run_id, Tag.CHECKPOINT_REMOVED, reason)

    def set_waiting(self, key: str, reason: str) -> None:
        """Set all finished runs of a trial to WAITING, in all sweeps, so that nobody reuses its result."""
        with translate_errors(self._location):
            for run in search_everywhere(self._client, match_trials(key)):
                if run.data.tags.get(Tag.STATE) in (TrialState.COMPLETE, TrialState.FAILED):
                    log_all(self._client, run.info.run_id, tags={Tag.REASON: reason, Tag.STATE: TrialState.WAITING})

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
            files=_find_files(self._location, run),
        )


def _find_files(location: TrackingLocation, run: Run) -> Path | None:
    """The folder of a run's files, if it lies in this home."""
    address = urlsplit(str(run.info.artifact_uri))
    if address.scheme not in ("", "file") or not location.is_database:
        return None
    folder = Path(url2pathname(address.path))
    return folder if folder.is_relative_to(location.artifacts.absolute()) else None
