"""The home: its paths, and which dispatchers are alive there."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

from orchestrator.state.home import Home

ENTER_AND_STAY = """
import sys, time
from pathlib import Path
from orchestrator.state.home import Home
owner = Home(Path(sys.argv[1])).new_owner()
print(owner.name, flush=True)
time.sleep(60)
"""


def test_environment_decides(tmp_path: Path) -> None:
    """Folder and servers come from the environment; without it everything lies in ./mlruns."""
    plain = Home.from_environment({})
    assert plain.root == Path.cwd() / "mlruns"
    assert plain.ledger_url == f"sqlite:///{plain.root}/ledger.db"
    assert (plain.storage, plain.mlflow_uri) == (None, f"sqlite:///{plain.root}/mlflow.db")
    set_up = Home.from_environment(
        {"ORCHESTRATE_HOME": str(tmp_path), "ORCHESTRATE_STORAGE": "postgresql://db/x", "MLFLOW_TRACKING_URI": "http://server"}
    )
    assert (set_up.trials, set_up.ledger_url) == (tmp_path / "trials", "postgresql://db/x")
    assert (set_up.storage, set_up.mlflow_uri) == ("postgresql://db/x", "http://server")


def test_an_owner_is_alive_until_it_is_closed(tmp_path: Path) -> None:
    """Two owners in one process are distinct; each is dead once it is closed, and leaves no file."""
    home = Home(tmp_path)
    with home.new_owner() as one, home.new_owner() as two:
        assert one.name != two.name
        assert not home.is_dead(one.name)
        one.close()
        assert not home.is_dead(two.name)
    assert list(home.locks.iterdir()) == []


def test_a_killed_owner_is_dead(tmp_path: Path) -> None:
    """However a process ends, its claims are recognized as a dead owner's at once."""
    home = Home(tmp_path)
    process = subprocess.Popen([sys.executable, "-c", ENTER_AND_STAY, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    name = process.stdout.readline().strip()
    assert not home.is_dead(name)
    process.kill()
    process.wait()
    process.stdout.close()
    assert home.is_dead(name)
    assert home.is_dead(name)


def test_owners_of_other_machines_are_judged_by_leases_only(tmp_path: Path) -> None:
    """An owner elsewhere is never called dead here."""
    assert not Home(tmp_path).is_dead("another-machine:1:1")


def test_another_machine_may_have_the_same_name(tmp_path: Path) -> None:
    """Clones, and containers in their machine's network: their process numbers mean nothing here."""
    elsewhere = f"{socket.gethostname()}:{os.getpid()}-0ther:1000"
    assert Home(tmp_path).is_alive(elsewhere) is None
    with Home(tmp_path / "other").new_owner() as owner:
        assert Home(tmp_path).is_alive(owner.name) is True


def test_an_owner_of_another_home_is_judged_by_its_process(tmp_path: Path) -> None:
    """Two homes on one machine may share a database; a reused process number does not count as alive."""
    home, host = Home(tmp_path), socket.gethostname()
    now_ms = 10**15
    assert not home.is_dead(f"{host}:{os.getpid()}:{now_ms}")
    assert home.is_dead(f"{host}:{os.getpid()}:1000")
