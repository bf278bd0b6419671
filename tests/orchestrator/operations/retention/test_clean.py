"""What `orchestrate clean` frees besides checkpoints, and what it never touches."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path

import pytest

from orchestrator.cli import main
from orchestrator.state.home import Home
from orchestrator.state.ledger import Ledger
from orchestrator.state.trial.folder import TrialFile, TrialFolder
from orchestrator.state.trial.records import TrialResult, TrialState
from tests.orchestrator.tracking.conftest import Worker

OLD_S = 2 * 3600


class Litter:
    """A home as killed and finished sweeps leave it, without MLflow."""

    def __init__(self, root: Path) -> None:
        self.home = Home(root)
        self.ledger = Ledger(self.home.ledger_url)
        self.worker = Worker(self.home.trials)

    def end(self, key: str, state: TrialState = TrialState.COMPLETE) -> TrialFolder:
        """A trial of sweep s that ended."""
        folder = self.worker.start(key)
        self.worker.finish(folder, state=state)
        (folder.path / TrialFile.CHECKPOINT).write_bytes(bytes(1000))
        self.ledger.register("s", [(key, "c")])
        self.ledger.claim(key, "s", "me")
        self.ledger.finish(key, "me", state)
        return folder

    def write(self, name: str, *, age_s: float = 0) -> Path:
        """A file of 100 bytes in the home."""
        path = self.home.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes(100))
        os.utime(path, (time.time() - age_s,) * 2)
        return path


@pytest.fixture
def litter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Litter:
    """Where the command looks."""
    for variable in ("MLFLOW_TRACKING_URI", "ORCHESTRATE_STORAGE"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("ORCHESTRATE_HOME", str(tmp_path / "home"))
    return Litter(tmp_path / "home")


def run_clean(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: str) -> dict[str, object]:
    """The command's document."""
    monkeypatch.setattr("sys.argv", ["orchestrate", "clean", "--json", *arguments])
    with pytest.raises(SystemExit) as exited:
        main()
    assert exited.value.code in (0, None)
    document: dict[str, object] = json.loads(capsys.readouterr().out)
    return document


def list_files(home: Home) -> set[str]:
    """Everything but locks and databases."""
    files = (path for path in home.root.rglob("*") if path.is_file() and "lock" not in path.name and "ledger" not in path.name)
    return {str(path.relative_to(home.root)) for path in files}


def test_what_can_be_made_again_is_deleted_and_the_rest_stays(
    litter: Litter, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is shown first, then freed; then nothing is left to free."""
    litter.end("done")
    litter.write("trials/done/predictions.zst")
    litter.write("cache/ensembles/e/confusions.npz")
    litter.write(f"data/{'f' * 16}-00000000/dataset.json")
    litter.write("trials/done/.mirror.json.77", age_s=10)
    expected = list_files(litter.home) - {"trials/done/last.pt"}
    litter.write("cache/predictions/abc.u8")
    litter.write(f"data/{'0' * 16}-00000000/dataset.json")
    litter.write("trials/done/.result.json.77", age_s=OLD_S)
    litter.write("trials/done/.last.pt.scratch", age_s=OLD_S)
    before = list_files(litter.home)

    shown = run_clean(capsys, monkeypatch, "--dry-run")
    assert list_files(litter.home) == before
    assert (shown["found_bytes"], shown["freed_bytes"], shown["dry_run"]) == (1400, 0, True)
    freed = run_clean(capsys, monkeypatch)
    assert list_files(litter.home) == expected
    assert (freed["freed_bytes"], freed["skipped"]) == (1400, [])
    assert run_clean(capsys, monkeypatch)["found"] == []


def test_only_the_given_sweep_is_cleaned(
    litter: Litter, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not other trials, nor caches; a misspelled one is answered."""
    litter.end("done")
    other = litter.worker.start("other")
    litter.worker.finish(other)
    (other.path / TrialFile.CHECKPOINT).write_bytes(b"x")
    litter.write("cache/predictions/abc.u8")
    freed = run_clean(capsys, monkeypatch, "s")
    assert freed["freed_bytes"] == 1000
    monkeypatch.setattr("sys.argv", ["orchestrate", "clean", "ss"])
    with pytest.raises(SystemExit) as exited:
        main()
    assert exited.value.code == 2
    assert "Did you mean 's'?" in capsys.readouterr().err


def test_what_is_to_be_resumed_stays(litter: Litter, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A trial that was stopped, and a failed one that is to be retried."""
    stopped, failed = litter.worker.start("stopped"), litter.end("failed", TrialState.FAILED)
    (stopped.path / TrialFile.CHECKPOINT).write_bytes(b"x")
    litter.ledger.reset_failed(["failed"])
    assert run_clean(capsys, monkeypatch)["found"] == []
    assert isinstance(failed.result(), TrialResult)


def test_a_running_dispatcher_keeps_caches_and_data(
    litter: Litter, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be about to use them; when it has ended they are deleted."""
    litter.write("cache/predictions/abc.u8")
    litter.write(f"data/{'0' * 16}-00000000/dataset.json")
    with litter.home.new_owner() as owner:
        report = run_clean(capsys, monkeypatch)
    assert report["freed_bytes"] == 0
    assert report["skipped"] == [{"what": "caches and prepared data", "why": f"{owner.name} may need them"}]
    assert run_clean(capsys, monkeypatch)["freed_bytes"] == 200


def test_a_trial_of_another_version_keeps_the_data(
    litter: Litter, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """They may have been prepared for it."""
    litter.write("trials/later/trial.json")
    kept = litter.write(f"data/{'0' * 16}-00000000/dataset.json")
    report = run_clean(capsys, monkeypatch)
    assert kept.exists()
    assert "later" in str(report["skipped"])


def test_a_full_disk_can_be_cleaned(
    small_disk: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even without space for another byte."""
    monkeypatch.setenv("ORCHESTRATE_HOME", str(small_disk))
    litter = Litter(small_disk)
    litter.end("done")
    litter.ledger.close()
    cached = litter.write("cache/predictions/abc.u8")
    with pytest.raises(OSError, match="No space left"):
        cached.write_bytes(bytes(2**22))
    assert shutil.disk_usage(small_disk).free < 1000
    run_clean(capsys, monkeypatch)
    assert shutil.disk_usage(small_disk).free > 1_000_000
    assert not (small_disk / "trials" / "done" / "last.pt").exists()
