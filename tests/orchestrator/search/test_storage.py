from __future__ import annotations

import multiprocessing
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.errors import TrackingError
from orchestrator.search import read_known
from orchestrator.search.storage import open_storage
from orchestrator.spec import load_spec
from tests.orchestrator.search.conftest import FACTS, GRID, build, read, run, trials_in


def test_a_torn_line_in_the_journal_is_dropped(tmp_path: Path, journal: Path) -> None:
    """A half-written line does not stop the next run."""
    spec = read(tmp_path, GRID)
    run(build(spec, journal), lambda _: 0.5)
    with open(journal, "ab") as file:
        file.write(b'{"op_code":4,"worker')
    assert len(run(build(spec, journal), lambda _: 0.5)) == 4
    assert len(trials_in(journal)) == 4


def test_a_killed_holder_does_not_keep_the_journal_locked(tmp_path: Path, journal: Path) -> None:
    """The kernel releases the lock with the process."""
    code = (
        "import os, signal, sys\nfrom pathlib import Path\nfrom orchestrator.search.storage import _KernelLock\n"
        "_KernelLock(Path(sys.argv[1])).acquire()\nos.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(journal)], check=False)
    assert done.returncode == -9
    assert build(read(tmp_path, GRID), journal).propose() is not None


def test_an_unreachable_database_is_named_without_its_password(tmp_path: Path) -> None:
    """The message names the storage and hides the password."""
    url = f"sqlite:///{tmp_path}/no/such/folder.db"
    with pytest.raises(TrackingError, match=r"no/such/folder\.db: .*ORCHESTRATE_STORAGE"):
        open_storage(url)
    with pytest.raises(TrackingError) as caught:
        open_storage("nosuchdialect://me:secret@host/db")
    assert "secret" not in str(caught.value)


def _work(folder: Path, owner: str) -> None:
    search = build(load_spec(folder / "s.yaml"), folder / "optuna.journal", owner=owner)
    run(search, lambda c: c.train.epochs / 10)


@pytest.mark.parametrize(("method", "num_points"), [("random", 500), ("BruteForceSampler", 25)])
def test_parallel_processes_leave_one_consistent_study(
    tmp_path: Path, journal: Path, monkeypatch: pytest.MonkeyPatch, method: str, num_points: int
) -> None:
    """Two processes on one search: every proposal ends, and the budget is exceeded at most by what was running."""
    space = f"{{epochs: {{low: 1, high: {num_points}, step: 1}}}}"
    spec = read(tmp_path, f"search: {{method: {method}, space: {space}}}\nbudget: {{trials: 20}}\n")
    monkeypatch.syspath_prepend(Path(__file__).parents[3])  # by which a fresh process finds this module
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_work, args=(tmp_path, f"owner{i}")) for i in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0, 0]
    known = read_known(spec, FACTS, journal)
    assert 20 <= len(known) <= 21
    assert all(value == c.train.epochs / 10 for c, value in known)
    assert len({c.id for c, _ in known}) == len(known)
