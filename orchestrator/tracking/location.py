"""Where the records of this machine's trials are kept: addresses only, nothing is opened."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from orchestrator.errors import TrackingError, redact
from orchestrator.state.home import Home


@dataclass(frozen=True)
class TrackingLocation:
    """MLflow's server or database, and the folders of this machine that belong to it."""

    uri: str
    artifacts: Path
    """Where runs keep their files if ``uri`` is a database; a server decides for itself."""
    trials: Path
    locks: Path
    index: Path | None = None
    """Folder of the cached index of a server's runs; None: no cache."""
    is_shared: bool = True
    """Whether other machines know this one's trials and may resume them."""

    @classmethod
    def of(cls, home: Home) -> TrackingLocation:
        """The location that ``home`` names."""
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
        return self.uri.startswith(("http://", "https://"))

    def __str__(self) -> str:
        """The URI without a password."""
        return redact(self.uri)


class RefusedError(TrackingError):
    """The server works but refuses this one request; others may still succeed."""
