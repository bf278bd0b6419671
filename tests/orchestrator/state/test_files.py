"""SQLite on file systems of other machines; the mount table is a file of ours, read by psutil as it reads the kernel's."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from orchestrator.errors import TrackingError
from orchestrator.state.home import Home
from orchestrator.state.ledger import Ledger
from orchestrator.tracking.client import connect
from orchestrator.tracking.location import TrackingLocation


def mount(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *mounts: tuple[Path, str]) -> None:
    """Let these be mounted, and a disk at /."""
    table = tmp_path / "proc" / "self" / "mounts"
    table.parent.mkdir(parents=True)
    lines = [("/", "ext4"), *mounts]
    table.write_text("".join(f"x {str(folder).replace(' ', chr(92) + '040')} {kind} rw 0 0\n" for folder, kind in lines))
    monkeypatch.setattr(psutil, "PROCFS_PATH", str(tmp_path / "proc"))


@pytest.mark.parametrize("kind", ["nfs4", "nfs", "cifs", "smb3", "fuse.sshfs"])
def test_sqlite_on_a_network_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """The ledger and MLflow's database alike, before a byte is written, with the reason and what to do."""
    share = tmp_path / "a share"
    mount(tmp_path, monkeypatch, (share, kind))
    home = Home(share / "mlruns")
    with pytest.raises(TrackingError, match=rf"network file system \({kind}\).*ORCHESTRATE_HOME.*ORCHESTRATE_STORAGE"):
        Ledger(home.ledger_url)
    with pytest.raises(TrackingError, match=rf"network file system \({kind}\)"):
        connect(TrackingLocation.of(home))
    assert not share.exists()


def test_a_disk_of_this_machine_below_a_network_will_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The nearest mount decides, and of two at one place the later."""
    share, disk = tmp_path / "share", tmp_path / "share" / "disk"
    mount(tmp_path, monkeypatch, (share, "nfs4"), (disk, "nfs4"), (disk, "xfs"))
    Ledger(Home(disk / "mlruns").ledger_url).close()
