"""The cached index of a server's runs: as correct as reading all of them, and cheaper."""

from __future__ import annotations

import sqlite3
import time
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlflow import MlflowClient

from orchestrator.tracking.client import connect
from orchestrator.tracking.location import TrackingLocation
from orchestrator.tracking.reader.index import WHOLE_S, RunIndex
from orchestrator.tracking.reader.mlflow_client import ClientSource, make_row
from orchestrator.tracking.reader.runs import RunReader
from orchestrator.tracking.tags import SWEEP_EXPERIMENT, RunKind, Tag, format_mark, list_prefixes
from tests.orchestrator.tracking.conftest import Server

pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")  # mlflow 3.17, SQLAlchemy 2.1


@given(st.floats(1e9, 4e9), st.floats(0, 20 * 86400), st.floats(0, 1))
def test_every_moment_of_a_period_is_searched(since_s: float, length_s: float, share: float) -> None:
    """Its mark begins with one of a few prefixes."""
    prefixes = list_prefixes(since_s, since_s + length_s)
    assert prefixes is not None
    assert len(prefixes) <= 31
    assert format_mark(since_s + share * length_s).startswith(tuple(prefixes))


def test_a_long_period_is_not_searched() -> None:
    """It is cheaper to read everything."""
    assert list_prefixes(0, 60 * 86400) is None


class Indexed:
    """An experiment of three runs, its index, and another client that reads everything."""

    def __init__(self, location: TrackingLocation, folder: Path) -> None:
        self.location, self.folder = location, folder
        self.client = connect(location)
        self.experiment = str(self.client.create_experiment("s"))
        self.runs = [str(self.client.create_run(self.experiment, tags={"n": str(n)}).info.run_id) for n in range(3)]

    def read(self) -> dict[str, object]:
        rows = RunIndex(self.location, ClientSource(self.location), self.folder).read([self.experiment])
        return {row.run_id: row for row in rows}

    def truth(self) -> dict[str, object]:
        return {run.info.run_id: make_row(run) for run in MlflowClient(self.location.uri).search_runs([self.experiment])}


@pytest.fixture
def indexed(location: TrackingLocation, tmp_path: Path) -> Indexed:
    """Read once already."""
    indexed = Indexed(location, tmp_path / "index")
    assert indexed.read() == indexed.truth()
    return indexed


def test_every_change_is_found(indexed: Indexed) -> None:
    """New runs, metrics, params, changed and removed tags, names, ends; by every method of the client."""
    client, (first, second, third) = indexed.client, indexed.runs
    client.set_tag(first, "state", "COMPLETE")
    client.log_batch(second, params=())
    client.update_run(second, name="another")
    client.set_terminated(third, "FINISHED")
    client.delete_tag(third, "n")
    client.create_run(indexed.experiment, tags={"n": "3"})
    assert indexed.read() == indexed.truth()
    assert len(indexed.read()) == 4


def test_deleted_and_restored_runs_are_noticed(indexed: Indexed) -> None:
    """By hand on MLflow's page, which leaves no mark."""
    by_hand = MlflowClient(indexed.location.uri)
    by_hand.delete_run(indexed.runs[0])
    assert indexed.read() == indexed.truth()
    by_hand.restore_run(indexed.runs[0])
    assert indexed.read() == indexed.truth()
    assert len(indexed.read()) == 3


def test_a_server_restored_from_a_backup_is_read_again(indexed: Indexed) -> None:
    """Runs that it has lost are not shown."""
    lost = indexed.client.create_run(indexed.experiment, tags={"n": "3"}).info.run_id
    indexed.read()
    later = format_mark(time.time() + 60)
    MlflowClient(indexed.location.uri).set_tag(lost, Tag.WRITTEN, later)  # later than the others, and still found
    assert lost in indexed.read()
    database = indexed.location.uri.removeprefix("sqlite:///")
    with sqlite3.connect(database) as connection:
        for table in ("tags", "runs"):
            connection.execute(f"DELETE FROM {table} WHERE run_uuid = ?", [lost])
    connection.close()
    assert indexed.read() == indexed.truth()


def test_only_changes_are_requested(indexed: Indexed, monkeypatch: pytest.MonkeyPatch) -> None:
    """A change without a mark is not seen; after some hours everything is read again."""
    by_hand = MlflowClient(indexed.location.uri)
    for run_id in indexed.runs:
        by_hand.set_tag(run_id, Tag.WRITTEN, "2001-01-01T00:00")
    by_hand.set_tag(indexed.runs[0], "n", "by hand")
    before = indexed.read()
    assert before != indexed.truth()
    right_s = time.time
    monkeypatch.setattr(time, "time", lambda: right_s() + WHOLE_S)
    assert indexed.read() == indexed.truth()


def test_a_damaged_index_is_made_again(indexed: Indexed) -> None:
    """Torn, empty, or of another version."""
    (file,) = indexed.folder.rglob("*.json")
    for content in ("", "{", '{"version": 99}', file.read_text()[:-9]):
        file.write_text(content)
        assert indexed.read() == indexed.truth()


def test_an_embedded_database_needs_none(location: TrackingLocation, tmp_path: Path) -> None:
    """Everything is read: that is quick, and other programs leave no marks."""
    Indexed(location, tmp_path)
    assert RunReader(replace(location, index=tmp_path / "index")).list_runs(["s"]) == []
    assert not (tmp_path / "index").exists()


def test_a_finished_trial_is_found_in_an_experiment_made_by_hand(server: Server, tmp_path: Path) -> None:
    """As in one that a sweep made; only the latter is cached, because the other may hold runs of other tools."""
    server.start()
    location = TrackingLocation(server.uri, tmp_path, tmp_path, tmp_path / "locks", tmp_path / "index")
    client = connect(location)
    made = client.create_experiment("made", tags={Tag.ORCHESTRATE: SWEEP_EXPERIMENT})
    for key, experiment in (("k0", made), ("k1", client.create_experiment("by hand"))):
        client.create_run(experiment, tags={Tag.KIND: RunKind.TRIAL, Tag.STATE: "COMPLETE", Tag.KEY: key})
    assert set(RunReader(location).find_finished(["k0", "k1", "k2"])) == {"k0", "k1"}
    assert [file.stem for file in (tmp_path / "index").rglob("*.json")] == [made]
