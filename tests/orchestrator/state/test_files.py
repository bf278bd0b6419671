"""Whole files, and SQLite on network file systems; the mount table is a file of ours, which psutil reads like the kernel's."""

from __future__ import annotations

import threading
from pathlib import Path

import psutil
import pytest

from orchestrator.errors import TrackingError
from orchestrator.state.files import replacing, write_atomically
from orchestrator.state.home import Home
from orchestrator.state.ledger import Ledger
from orchestrator.tracking.client import connect
from orchestrator.tracking.location import TrackingLocation


def mount(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *mounts: tuple[Path, str]) -> None:
    """Mount these, and a disk at /."""
    table = tmp_path / "proc" / "self" / "mounts"
    table.parent.mkdir(parents=True)
    lines = [("/", "ext4"), *mounts]
    table.write_text("".join(f"x {str(folder).replace(' ', chr(92) + '040')} {kind} rw 0 0\n" for folder, kind in lines))
    monkeypatch.setattr(psutil, "PROCFS_PATH", str(tmp_path / "proc"))


@pytest.mark.parametrize("kind", ["nfs4", "nfs", "cifs", "smb3", "fuse.sshfs"])
def test_sqlite_on_a_network_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """For the ledger and for MLflow's database, before a byte is written; the message says why and what to do."""
    share = tmp_path / "a share"
    mount(tmp_path, monkeypatch, (share, kind))
    home = Home(share / "mlruns")
    with pytest.raises(TrackingError, match=rf"network file system \({kind}\).*ORCHESTRATE_HOME.*ORCHESTRATE_STORAGE"):
        Ledger(home.ledger_url)
    with pytest.raises(TrackingError, match=rf"network file system \({kind}\)"):
        connect(TrackingLocation.of(home))
    assert not share.exists()


def test_a_local_disk_below_a_network_mount_is_accepted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The nearest mount decides, and of two at one point the later."""
    share, disk = tmp_path / "share", tmp_path / "share" / "disk"
    mount(tmp_path, monkeypatch, (share, "nfs4"), (disk, "nfs4"), (disk, "xfs"))
    Ledger(Home(disk / "mlruns").ledger_url).close()


def test_a_file_whose_write_fails_stays_as_it_was(tmp_path: Path) -> None:
    """And no half-written file is left beside it."""
    path = tmp_path / "file.json"
    write_atomically(path, "old")

    def fail() -> None:
        with replacing(path) as scratch:
            scratch.write_text("half")
            raise OSError("no space")

    with pytest.raises(OSError, match="no space"):
        fail()
    assert [file.name for file in tmp_path.iterdir()] == ["file.json"]
    assert path.read_text() == "old"


def test_a_folder_appears_at_once(tmp_path: Path) -> None:
    """It gets its name only when it is complete."""
    path = tmp_path / "masks"
    with replacing(path) as scratch:
        scratch.mkdir()
        (scratch / "1.png").touch()
        assert not path.exists()
    assert [file.name for file in path.iterdir()] == ["1.png"]
    assert list(tmp_path.iterdir()) == [path]


def test_two_writers_share_no_scratch_file(tmp_path: Path) -> None:
    """Even with equal process and thread numbers, as two containers have."""
    with replacing(tmp_path / "file") as first, replacing(tmp_path / "file") as second:
        assert first != second
        first.touch()
        second.touch()


def test_several_threads_may_write_one_file(tmp_path: Path) -> None:
    """Each has its own scratch file, and the last one wins."""
    path, contents = tmp_path / "file", [bytes([digit]) * 100_000 for digit in range(8)]
    threads = [threading.Thread(target=write_atomically, args=(path, content)) for content in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert path.read_bytes() in contents
    assert list(tmp_path.iterdir()) == [path]
