"""Whichever thread needs mlflow first imports it: the mirror, the checkpoints' thread, or a reader of results."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

THREADS = """
import importlib, sys, threading
wrong, begin = [], threading.Barrier(4)

def load(name):
    begin.wait()
    try:
        importlib.import_module("orchestrator.tracking." + name)
    except Exception as error:
        wrong.append(f"{name}: {error!r}")

names = ("mirror.recorder", "checkpoints.store", "client", "reader.mlflow_client")
threads = [threading.Thread(target=load, args=[name]) for name in names]
for thread in threads: thread.start()
for thread in threads: thread.join()
sys.exit("; ".join(wrong) or 0)
"""


def test_threads_that_import_it_at_once_get_all_of_it() -> None:
    """As when a sweep begins beside a server."""
    done = subprocess.run([sys.executable, "-c", THREADS], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize("path", sorted(Path("orchestrator/tracking").rglob("*.py")), ids=str)
def test_mlflow_is_imported_before_its_parts(path: Path) -> None:
    """Else the import of a part holds a lock that the import of the whole needs, and Python returns half-initialized modules."""
    names = [
        alias.name if isinstance(node, ast.Import) else str(node.module)
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    ]
    ours = [name for name in names if name.partition(".")[0] == "mlflow"]
    assert path.stem == "served_model" or not ours or ours[0] == "mlflow", ours  # a script, which a server runs by itself
