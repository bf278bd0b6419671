"""mirror.json: what a trial folder's mirror has sent already; losing it costs time, never a double count."""

from __future__ import annotations

from pydantic import Field, ValidationError

from orchestrator.state.files import write_atomically
from orchestrator.state.trial.folder import TrialFile, TrialFolder
from orchestrator.state.trial.records import Record


class Sent(Record):
    """How far a folder has been mirrored to one server."""

    server: str
    """Its URI without a password; what was sent elsewhere does not count here."""
    sweep: str
    """In whose experiment the run is."""
    run_id: str | None = None
    deviation: str = ""
    """Of the run's terms; on others the trial has another run."""
    offset: int = 0
    """Bytes of progress.jsonl that are there."""
    epoch: int = 0
    best: float | None = None
    artifacts: dict[str, str] = Field(default_factory=dict)
    """File name -> size and time of what was uploaded."""
    running: bool = False
    """The run's status there is RUNNING."""
    ended: bool = False
    """Everything that the ended trial left is there."""


def read_sent(folder: TrialFolder, server: str) -> Sent | None:
    """What was sent to ``server``; None where nothing is known, be the file lost or another's."""
    try:
        sent = Sent.model_validate_json((folder.path / TrialFile.SENT).read_bytes())
    except (FileNotFoundError, ValidationError):
        return None  # everything is sent again, and MLflow counts equal points once
    return sent if sent.server == server else None


def write_sent(folder: TrialFolder, sent: Sent) -> None:
    """Remember it in the folder."""
    write_atomically(folder.path / TrialFile.SENT, sent.model_dump_json(indent=1))
