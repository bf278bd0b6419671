"""Names that an option allows are those that the code knows."""

from __future__ import annotations

from typing import get_args

from orchestrator.cli.sweeps import LauncherName
from orchestrator.launchers.choose import LAUNCHERS


def test_every_launcher_can_be_chosen() -> None:
    """The option repeats the names, so that `--help` need not load the launchers."""
    assert set(get_args(LauncherName)) == set(LAUNCHERS)
