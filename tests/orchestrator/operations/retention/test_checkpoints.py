"""Checkpoints deleted by a sweep's rule, and copies of what MLflow has."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from filelock import FileLock
from rich.console import Console

from orchestrator.ensemble.predict.files import find_files
from orchestrator.errors import PredictError, TrackingError
from orchestrator.operations.retention.clean import CleanReport, apply_keep, clean
from orchestrator.operations.retention.reclaimable import ReclaimableKind
from orchestrator.operations.retry import train_again
from orchestrator.state.trial.folder import TrialFile
from orchestrator.state.trial.records import TrialState
from orchestrator.tracking.location import TrackingLocation
from orchestrator.tracking.mirror.ensembles import log_ensemble
from orchestrator.tracking.reader.runs import RunReader
from orchestrator.tracking.tags import EnsembleRecord
from tests.orchestrator.operations.retention.conftest import CHECKPOINT, Bench

pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")  # mlflow 3.17, SQLAlchemy 2.1

RESULTS = {"predictions.json", "predictions.zst", "predictions.labels.zst", "confusions.npz", "result.json", "log.txt"}


def run_clean(bench: Bench, *sweeps: str, dry_run: bool = False) -> CleanReport:
    """As the command does."""
    return clean(bench.home, sweeps, dry_run=dry_run, console=Console(stderr=True))


def test_the_rule_frees_all_but_the_best(bench: Bench) -> None:
    """In folders and in the artifact store; everything else of the trials stays."""
    for key, best in [("a", 0.5), ("b", 0.7), ("c", 0.6)]:
        bench.end(key, best=best)
    bench.recorder.record_keep("s", "1")
    removed, left = apply_keep(bench.home, "s")
    assert {key: bench.has_checkpoint(key) for key in "abc"} == {"a": False, "b": True, "c": False}
    assert (len(removed), left) == (4, [])
    for key in "abc":
        assert {path.name for path in bench.home.trial_folder(key).iterdir()} >= RESULTS
    assert apply_keep(bench.home, "s") == ([], [])


def test_a_removed_checkpoint_says_so(bench: Bench) -> None:
    """To users who predict or export with it, by key or path, even if only MLflow knows; and how to get it back."""
    folder = bench.end("abcd")
    bench.recorder.record_keep("s", "none")
    apply_keep(bench.home, "s")
    told = r"removed by `keep: \{checkpoints: none\}` of sweep s.* `orchestrate retry SWEEP --trial abcd`"
    for name in ("abcd", str(folder.path), str(folder.path / CHECKPOINT)):
        with pytest.raises(PredictError, match=told):
            find_files(name, bench.home)
    (folder.path / "removed.json").unlink()
    with pytest.raises(PredictError, match=told):
        find_files("abcd", bench.home)


def test_a_members_checkpoint_stays(bench: Bench) -> None:
    """An ensemble that was logged can be predicted with afterwards."""
    bench.end("a", best=0.5)
    bench.end("b", best=0.7)
    run_id = log_ensemble(TrackingLocation.of(bench.home), "s", EnsembleRecord("two", {"a": 1.0}, {}, {"a": 1}))
    bench.recorder.record_keep("s", "none")
    apply_keep(bench.home, "s")
    assert (bench.has_checkpoint("a"), bench.has_checkpoint("b")) == (True, False)
    assert list(find_files(run_id, bench.home).members) == ["a"]


def test_what_a_process_works_on_stays(bench: Bench) -> None:
    """A worker in the folder, a dispatcher's lease, a trial that waits to be retried."""
    for key in ("locked", "leased", "again"):
        bench.end(key, state=TrialState.PRUNED if key == "leased" else TrialState.COMPLETE)
    bench.recorder.record_keep("s", "none")
    assert bench.ledger.claim("leased", "other", "somebody") is not None
    assert bench.ledger.forget("again")
    with FileLock(bench.home.trial_folder("locked") / "lock"):
        report = run_clean(bench)
    assert [bench.has_checkpoint(key) for key in ("locked", "leased", "again")] == [True, True, True]
    assert [one.what for one in report.skipped] == ["locked"]
    assert {path.name for path in bench.home.trials.glob("*/last.pt")} == {"last.pt"}
    assert len(list(bench.home.trials.glob("*/last.pt"))) == 3


def test_what_is_not_in_mlflow_yet_stays(bench: Bench) -> None:
    """Its score is unknown, and no run could show that it is gone."""
    bench.end("a", is_sent=False)
    bench.recorder.record_keep("s", "none")
    assert apply_keep(bench.home, "s") == ([], [])


def test_a_failed_trial_can_be_resumed(bench: Bench) -> None:
    """The rule at the end of a sweep deletes neither of its checkpoints."""
    folder = bench.end("a", state=TrialState.FAILED)
    bench.recorder.record_keep("s", "none")
    assert apply_keep(bench.home, "s") == ([], [])
    assert (folder.path / TrialFile.CHECKPOINT).exists()


def test_without_mlflow_no_checkpoint_is_deleted(bench: Bench, tmp_path: Path) -> None:
    """It is unknown who needs it; the rest is freed, and the report names what was skipped."""
    folder = bench.end("a")
    bench.recorder.record_keep("s", "none")
    bench.home.mlflow_db.write_bytes(b"no database")
    with pytest.raises(TrackingError):
        apply_keep(bench.home, "s")
    report = run_clean(bench)
    assert {find.kind for find in report.removed} == {ReclaimableKind.resume}
    assert "mlflow.db" in report.skipped[0].why
    assert (folder.path / CHECKPOINT).exists()


def test_a_copy_of_what_mlflow_has_is_freed_and_fetched_again(bench: Bench) -> None:
    """Predicting fetches it, and what was fetched is a copy too."""
    folder = bench.end("abcd")
    assert {find.path for find in run_clean(bench, "s").removed} == {folder.path / CHECKPOINT, folder.path / TrialFile.CHECKPOINT}
    [fetched] = [member.checkpoint for member in find_files("abcd", bench.home).members.values()]
    assert fetched.is_relative_to(bench.home.cache)
    assert fetched.read_bytes() == b"weights"
    assert {find.path for find in run_clean(bench).removed} == {fetched}


def test_only_a_true_copy_is_freed(bench: Bench) -> None:
    """Not a file that was never sent, has changed since, or can no longer be fetched."""
    changed, lost, unsent = bench.end("changed"), bench.end("lost"), bench.end("unsent", is_sent=False)
    os.utime(changed.path / CHECKPOINT, (1, 1))
    bench.artifacts("lost")[0].unlink()
    run_clean(bench)
    assert [(folder.path / CHECKPOINT).exists() for folder in (changed, lost, unsent)] == [True, True, True]


def test_a_trial_is_trained_again_on_request(bench: Bench) -> None:
    """Neither ledger nor folder nor MLflow treats it as finished any more."""
    folder = bench.end("abcd")
    assert train_again(bench.home, ["s"], ["abc"]) == ["abcd: will be trained again"]
    assert bench.ledger.states(["abcd"])["abcd"].state is TrialState.WAITING
    assert folder.result() is None
    assert RunReader(TrackingLocation.of(bench.home)).find_finished(["abcd"]) == {}
