"""mirror.json: what a trial folder has already sent to MLflow. Losing it costs time, never a double count."""

from pydantic import Field, ValidationError

from orchestrator.state.files import write_atomically
from orchestrator.state.trial.folder import TrialFile, TrialFolder
from orchestrator.state.trial.records import Record


class MirrorState(Record):
    """How much of a folder is on one server."""

    server: str
    """Its URI without a password; what was sent to another server does not count."""
    sweep: str
    """The sweep whose experiment holds the run."""
    run_id: str | None = None
    deviation: str = ""
    """The run's deviation; each deviation has a run of its own."""
    offset: int = 0
    """Bytes of progress.jsonl that were sent."""
    epoch: int = 0
    best: float | None = None
    artifacts: dict[str, str] = Field(default_factory=dict)
    """File name -> size and time of the uploaded version."""
    running: bool = False
    """Whether the run's status is RUNNING."""
    ended: bool = False
    """Whether everything that the ended trial left was sent."""


def read_mirror_state(folder: TrialFolder, server: str) -> MirrorState | None:
    """What was sent to ``server``; None if the file is missing, damaged or about another server."""
    try:
        state = MirrorState.model_validate_json((folder.path / TrialFile.SENT).read_bytes())
    except (FileNotFoundError, ValidationError):
        return None  # everything is sent again; MLflow counts equal points once
    return state if state.server == server else None


def write_mirror_state(folder: TrialFolder, state: MirrorState) -> None:
    """Save it in the folder."""
    write_atomically(folder.path / TrialFile.SENT, state.model_dump_json(indent=1))
