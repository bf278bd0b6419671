"""The checkpoint to resume from: copied while a trainer works, and adopted from another machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.state.trial.checkpoint import copied, enter, find_epoch, note_checkpoint
from orchestrator.state.trial.folder import TrialFile, TrialFolder
from orchestrator.state.trial.records import Event


def train(folder: TrialFolder, *epochs: int, attempt: int = 1, text: str = "") -> None:
    """Write what a worker writes after these epochs."""
    folder.path.mkdir(exist_ok=True)
    for epoch in epochs:
        folder.append(
            Event(kind="epoch", time_s=attempt * 1000.0 + epoch, attempt=attempt, epoch=epoch, metrics={"val/miou": 0.5})
        )
    for name in ("best.safetensors", "last.pt"):
        scratch = folder.path / ".scratch"
        scratch.write_text(text or f"{name} of {epochs[-1]}")
        scratch.replace(folder.path / name)
    note_checkpoint(folder, epochs[-1])


@pytest.fixture
def folder(tmp_path: Path) -> TrialFolder:
    """Of a trial of two epochs."""
    folder = TrialFolder(tmp_path / "trial")
    train(folder, 1, 2)
    return folder


def test_a_copy_does_not_change(folder: TrialFolder) -> None:
    """While a trainer continues; and it is deleted afterwards."""
    names = {path.name for path in folder.path.iterdir()}
    with copied(folder) as found:
        assert found is not None
        copy, epoch = found
        train(folder, 3)
        assert epoch == 2
        assert {path.name for path in copy.iterdir()} == {"last.pt", "best.safetensors", "progress.jsonl"}
        assert (copy / "last.pt").read_text() == "last.pt of 2"
        assert [event.epoch for event in TrialFolder(copy).events()[0]] == [1, 2]
    assert {path.name for path in folder.path.iterdir()} == names


def test_a_copy_without_hard_links_is_the_same(folder: TrialFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """On file systems without them."""

    def refuse(source: Path, target: Path) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr("os.link", refuse)
    with copied(folder) as found:
        assert found is not None
        assert (found[0] / "last.pt").read_text() == "last.pt of 2"


def test_a_checkpoint_of_unknown_epoch_is_not_copied(folder: TrialFolder) -> None:
    """A kill came between last.pt and checkpoint.json: only the earlier epoch is certain."""
    (folder.path / "last.pt").write_text("of epoch 3")
    with copied(folder) as found:
        assert found is None
    assert find_epoch(folder) == 2
    (folder.path / TrialFile.CHECKPOINT_INFO).unlink()
    assert find_epoch(folder) == 0


def test_a_checkpoint_from_elsewhere_replaces_the_one_here(folder: TrialFolder, tmp_path: Path) -> None:
    """With the progress that led to it, each event once; this machine's own events stay."""
    away = TrialFolder(tmp_path / "away")
    train(away, 1, 2)  # as the other machine found it
    train(away, 3, 4, attempt=2)
    folder.append(Event(kind="epoch", time_s=1003.0, attempt=1, epoch=3))
    (folder.path / "mirror.json").write_text("of an earlier state")
    with copied(away) as found:
        assert found is not None
        enter(folder, *found)
    assert find_epoch(folder) == 4
    assert (folder.path / "last.pt").read_text() == "last.pt of 4"
    assert (folder.path / "best.safetensors").read_text() == "best.safetensors of 4"
    assert [(event.attempt, event.epoch) for event in folder.events()[0]] == [(1, 1), (1, 2), (1, 3), (2, 3), (2, 4)]
    assert not (folder.path / "mirror.json").exists()
    with copied(folder) as found:
        assert found is not None
