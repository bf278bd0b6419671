"""``package.module:attribute`` -> a custom loss, architecture or transform, and a hash of its source."""

import hashlib
import importlib
import importlib.util
from pathlib import Path
from typing import Any

from trainers.config import describe_unknown
from trainers.errors import ConfigError


def import_object(path: str) -> Any:
    """Import what ``path`` (``package.module:attribute``) names.

    Raises:
        ConfigError: the path is malformed, its module does not import, or has no such attribute.
    """
    module_name, attribute = _split(path)
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # a user's module may raise anything; its author needs to see it
        is_missing = isinstance(error, ModuleNotFoundError) and error.name == module_name.partition(".")[0]
        hint = " It must be installed, or its folder be on PYTHONPATH." if is_missing else ""
        raise ConfigError(
            f"{path!r}: module {module_name!r} cannot be imported: {type(error).__name__}: {error}.{hint}"
        ) from error
    if not hasattr(module, attribute):
        public = [name for name in dir(module) if not name.startswith("_")]
        raise ConfigError(f"{path!r}: {describe_unknown(attribute, public, f'name in module {module_name}')}")
    return getattr(module, attribute)


def source_hash(path: str) -> str:
    """Hash the file that defines the module of ``path``: 16 hexadecimal digits.

    Raises:
        ConfigError: the module has no source file.
    """
    module_name, _ = _split(path)
    try:
        spec = importlib.util.find_spec(module_name)
    except (ImportError, ValueError) as error:
        raise ConfigError(f"{path!r}: module {module_name!r} cannot be found: {error}") from error
    if spec is None or spec.origin is None or not Path(spec.origin).is_file():
        raise ConfigError(f"{path!r}: module {module_name!r} has no source file. It must be installed, or on PYTHONPATH.")
    return hashlib.sha256(Path(spec.origin).read_bytes()).hexdigest()[:16]


def _split(path: str) -> tuple[str, str]:
    module_name, _, attribute = path.partition(":")
    if not all(part.isidentifier() for part in module_name.split(".")) or not attribute.isidentifier():
        raise ConfigError(f"{path!r} is not an import path. Write package.module:attribute")
    return module_name, attribute
