"""A database is created once, by whichever process is first and despite kills."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from orchestrator.tracking.client import connect, lock_database
from orchestrator.tracking.location import TrackingLocation

pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")  # mlflow 3.17, SQLAlchemy 2.1


@pytest.fixture
def location(tmp_path: Path) -> TrackingLocation:
    """An empty location."""
    return TrackingLocation(f"sqlite:///{tmp_path}/mlflow.db", tmp_path / "artifacts", tmp_path / "trials", tmp_path / "locks")


def test_a_database_that_another_process_creates_is_not_touched(
    empty_database: Path, location: TrackingLocation, tmp_path: Path
) -> None:
    """Two processes that create its tables would break it: the second waits."""
    assert empty_database.exists()  # MLflow is imported: what would come too early comes at once
    second = threading.Thread(target=connect, args=(location,))
    with lock_database(location):
        second.start()
        second.join(timeout=1)
        assert second.is_alive()
        assert not list(tmp_path.glob("mlflow.db*"))
    second.join()
    assert [path.name for path in tmp_path.glob("mlflow.db*")] == ["mlflow.db"]


def test_a_database_left_half_made_is_created_again(location: TrackingLocation, tmp_path: Path) -> None:
    """What the killed process left is no obstacle."""
    for name in ("mlflow.db.new", "mlflow.db.new-journal"):
        (tmp_path / name).write_bytes(b"half of it")
    assert connect(location).search_experiments()
    assert [path.name for path in tmp_path.glob("mlflow.db*")] == ["mlflow.db"]
