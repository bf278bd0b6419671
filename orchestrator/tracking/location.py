"""Where the records of this machine's trials are kept; knows the addresses and opens nothing."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from orchestrator.errors import TrackingError, redact
from orchestrator.state.home import Home


@dataclass(frozen=True)
class TrackingLocation:
    """The tracking server of this machine, and the folders that belong to it."""

    uri: str
    artifacts: Path
    """Where runs keep their files if ``uri`` is a database; a server decides for itself."""
    trials: Path
    locks: Path
    index: Path | None = None
    """Where it is kept what a server has said of its runs; None: it is asked for all of them each time."""
    is_shared: bool = True
    """Whether other machines know which trials there are, and may go on with those of this one."""

    @classmethod
    def of(cls, home: Home) -> TrackingLocation:
        """What ``home`` says."""
        return cls(
            uri=home.mlflow_uri,
            artifacts=home.artifacts,
            trials=home.trials,
            locks=home.locks,
            index=home.cache / "runs",
            is_shared=home.storage is not None,
        )

    @property
    def is_database(self) -> bool:
        return self.uri.split(":", 1)[0].split("+", 1)[0] in {"sqlite", "postgresql", "mysql", "mssql"}

    @property
    def is_server(self) -> bool:
        """Whether it is asked over HTTP."""
        return self.uri.startswith(("http://", "https://"))

    def __str__(self) -> str:
        """The URI as it may be shown: without a password."""
        return redact(self.uri)


class RefusedError(TrackingError):
    """The server is well and refuses this one request; what else there is to send it may take."""
