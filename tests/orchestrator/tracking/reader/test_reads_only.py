"""A reader never writes to MLflow."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from mlflow import MlflowClient

from orchestrator.tracking import reader

PREFIXES = ("create_", "log_", "set_", "delete_", "update_", "restore_", "rename_")
WRITING = {name for name in dir(MlflowClient) if name.startswith(PREFIXES)}
MODULES = sorted(Path(next(iter(reader.__path__))).glob("*.py"))


def find_writes(source: str) -> list[str]:
    """Calls of MlflowClient's methods that change something."""
    calls = [node.func for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    return [call.attr for call in calls if isinstance(call, ast.Attribute) and call.attr in WRITING]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_a_reader_calls_nothing_that_writes(path: Path) -> None:
    """So a leaderboard cannot change what it ranks."""
    assert find_writes(path.read_text(encoding="utf-8")) == []


def test_a_write_is_found() -> None:
    """The test above can fail."""
    assert find_writes("client.set_tag(run_id, name, value); client.get_run(run_id)") == ["set_tag"]
