"""The team's server, once for all tests of it."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.compose.stack import Stack, make_images


@pytest.fixture(scope="session")
def images() -> dict[str, str]:
    """Made where they are not there yet: minutes, and several gigabytes."""
    if os.geteuid() != 0 or shutil.which("debootstrap") is None:
        pytest.skip("base images are made by root with debootstrap")
    if subprocess.run(["docker", "info"], capture_output=True, check=False).returncode:
        pytest.skip("there is no Docker engine")
    return make_images()


@pytest.fixture(scope="session")
def stack(images: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Up from nothing."""
    stack = Stack(tmp_path_factory.mktemp("stack"), images)
    try:
        stack.up()
        yield stack
    finally:
        stack.down()


@pytest.fixture
def folder(stack: Stack) -> Path:
    """Where commands run."""
    return stack.folder
