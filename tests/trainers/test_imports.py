from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from trainers.errors import ConfigError
from trainers.imports import import_object, source_hash

SOURCE = "class MyLoss:\n    pass\n"


@pytest.fixture
def my_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A module of a user on the path."""
    file = tmp_path / "my_module_of_losses.py"
    file.write_text(SOURCE)
    monkeypatch.syspath_prepend(str(tmp_path))
    return file


@pytest.mark.usefixtures("my_module")
def test_object_is_found() -> None:
    """The path gives the attribute itself."""
    assert import_object("my_module_of_losses:MyLoss").__name__ == "MyLoss"


@pytest.mark.usefixtures("my_module")
def test_unknown_attribute_names_the_nearest() -> None:
    """A typing error is answered with what was meant."""
    with pytest.raises(ConfigError, match="Did you mean 'MyLoss'"):
        import_object("my_module_of_losses:MyLos")


def test_missing_module_says_what_to_do() -> None:
    """A module that is not installed is named."""
    with pytest.raises(ConfigError, match=r"no_such_module.*PYTHONPATH"):
        import_object("no_such_module:Loss")


def test_error_in_the_module_is_shown(my_module: Path) -> None:
    """A module that fails while it is imported is reported with its error."""
    my_module.with_name("my_broken_module.py").write_text("1 / 0")
    with pytest.raises(ConfigError, match=r"ZeroDivisionError: division by zero\.$"):
        import_object("my_broken_module:Loss")


@pytest.mark.parametrize("path", ["module", ":x", "a b:c", "a:b c", "a:"])
def test_malformed_path_is_rejected(path: str) -> None:
    """The message shows the form."""
    with pytest.raises(ConfigError, match=r"package\.module:attribute"):
        import_object(path)


@pytest.mark.usefixtures("my_module")
def test_hash_is_of_the_file() -> None:
    """16 digits that depend on the content alone."""
    assert source_hash("my_module_of_losses:MyLoss") == hashlib.sha256(SOURCE.encode()).hexdigest()[:16]


def test_hash_of_what_has_no_file_is_rejected() -> None:
    """A built-in module has no source to follow."""
    with pytest.raises(ConfigError, match="no source file"):
        source_hash("sys:path")


def test_hash_of_a_missing_package_is_rejected() -> None:
    """A package that is not there cannot be hashed."""
    with pytest.raises(ConfigError, match="cannot be found"):
        source_hash("no_such_package.module:attribute")
