"""Reads a sweep file as YAML 1.2 and records the line of every value; load.py then validates it."""

import copy
import difflib
import io
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode
from ruamel.yaml.reader import ReaderError

from orchestrator.errors import SpecError

Place = tuple[str | int, ...]
"""Keys of mappings and indices of lists that lead from the top of a document to a value."""

MAX_VALUES = 50_000
"""More than any sweep needs; a limit for aliases that multiply."""

SPACE: Place = ("search", "space")
"""The one mapping whose keys contain dots."""

PARAMETER_FIELDS = ("choices", "low", "high", "log", "step", "when")
"""Fields below a key of the search space."""

OPTION = "--set"

SECRET = "notify"
"""Values of this key may hold passwords, so no message shows them."""


@dataclass(frozen=True)
class Document:
    """A sweep file's values, and where each one is written.

    data: mappings, lists and scalars. origins: place -> ``FILE:LINE``, or ``--set a.b=c``.
    """

    name: str
    data: Any
    origins: Mapping[Place, str]

    def where(self, place: Place) -> str:
        """Return where ``place`` is written; for a missing place, where its nearest enclosing value begins."""
        for length in range(len(place), 0, -1):
            if (origin := self.origins.get(place[:length])) is not None:
                return origin
        return self.name


def write_place(place: Place) -> str:
    """Write a place as text: ``("search", "space", "loss", 1)`` -> ``search.space.loss[1]``."""
    text = ""
    for part in place:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def show(value: Any) -> str:
    """Write a value as it stands in the file, shortened to 60 characters."""
    if value is None:
        return "empty"
    text = repr(value) if isinstance(value, str) else json.dumps(value, default=str)
    return text if len(text) <= 60 else f"{text[:57]}..."


def read_document(path: Path) -> Document:
    """Read a sweep file.

    Raises:
        SpecError: no such file, not a file, not UTF-8, not YAML 1.2, a key given twice, or not a mapping at the top.
    """
    text = _read_text(path)
    root = _compose(text, name=str(path))
    if root is None:
        raise SpecError(f"{path}: is empty. A sweep file needs at least a 'search', 'rows' or 'base'.")
    reading = _Reading(str(path))
    data = reading.value(root, ())
    if not isinstance(data, dict):
        found = "a list" if isinstance(data, list) else repr(data)
        raise SpecError(f"{path}:{_line(root)}: the top of the file is {found}. Allowed: a mapping, such as 'name: losses'.")
    return Document(str(path), data, reading.origins)


def _read_text(path: Path) -> str:
    if path.is_dir():
        names = ", ".join(_sweep_files(path)[:5])
        raise SpecError(f"{path}: is a folder. Name one sweep file in it{names and f': {names}'}.")
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise SpecError(f"{path}: not found.{_nearest_file(path)}") from None
    except OSError as error:
        raise SpecError(f"{path}: cannot be read: {error.strerror or error}") from None
    except ValueError as error:  # a null byte in the name
        raise SpecError(f"{str(path)!r}: is not a file's name: {error}") from None
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        found = f"byte 0x{content[error.start]:02x}"
        raise SpecError(f"{path}:{line}: holds {found}, which is not UTF-8. Save the file as UTF-8.") from None


def _sweep_files(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir() if p.suffix in (".yaml", ".yml")) if folder.is_dir() else []


def _nearest_file(path: Path) -> str:
    if not path.parent.is_dir():
        return f" There is no folder {path.parent} either."
    near = difflib.get_close_matches(path.name, _sweep_files(path.parent), n=1, cutoff=0.4)
    return f" Did you mean '{path.parent / near[0]}'?" if near else ""


def _compose(text: str, *, name: str) -> Node | None:
    """Parse YAML into nodes with tags and lines; None if the text has no value."""
    try:
        root: Node | None = YAML(typ="safe", pure=True).compose(io.StringIO(text))
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        hint = " Indent with spaces, not with tabs." if "\\t" in str(error.problem) else ""
        raise SpecError(f"{_at(name, mark.line + 1 if mark else 1)}: is not YAML: {error.problem}.{hint}") from None
    except ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise SpecError(f"{_at(name, line)}: holds the character {error.character!r}, which YAML does not allow.") from None
    except (YAMLError, ValueError, AttributeError, IndexError, TypeError) as error:  # ruamel's parser raises these too
        raise SpecError(f"{name}: is not YAML: {error}") from None
    except RecursionError:
        raise SpecError(f"{name}: is nested too deeply to be a sweep.") from None
    return root


def _line(node: Node) -> int:
    return int(node.start_mark.line) + 1


def _at(name: str, line: int) -> str:
    """Add the line, which an option of the command line does not have."""
    return name if name.startswith(OPTION) else f"{name}:{line}"


class _Reading:
    """Walks the nodes of a file once: turns them into values and records their lines."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.origins: dict[Place, str] = {}
        self._constructor = YAML(typ="safe", pure=True).constructor
        self._open: set[int] = set()
        self._num_values = 0

    def value(self, node: Node, place: Place) -> Any:
        self.origins.setdefault(place, _at(self.name, _line(node)))
        self._num_values += 1
        if self._num_values > MAX_VALUES:
            raise self._error(node, place, f"holds more than {MAX_VALUES} values")
        if isinstance(node, ScalarNode):
            return self._scalar(node, place)
        if id(node) in self._open:
            raise self._error(node, place, "refers to itself")
        if len(place) > 50:
            raise self._error(node, place[:4], "is nested too deeply to be a sweep")
        self._open.add(id(node))
        try:
            return self._mapping(node, place) if isinstance(node, MappingNode) else self._list(node, place)
        finally:
            self._open.discard(id(node))

    def _list(self, node: Node, place: Place) -> list[Any]:
        self._check_tag(node, place, "tag:yaml.org,2002:seq")
        assert isinstance(node, SequenceNode)
        return [self.value(item, (*place, i)) for i, item in enumerate(node.value)]

    def _mapping(self, node: MappingNode, place: Place) -> dict[str | int, Any]:
        self._check_tag(node, place, "tag:yaml.org,2002:map")
        lines: dict[str | int, int] = {}
        result: dict[str | int, Any] = {}
        for key_node, value_node in node.value:
            key = self._key(key_node, place)
            if key in lines:
                raise self._error(key_node, (*place, key), f"is given twice, first in line {lines[key]}")
            lines[key] = _line(key_node)
            self.origins[(*place, key)] = _at(self.name, lines[key])
            result[key] = self.value(value_node, (*place, key))
        return result

    def _key(self, node: Node, place: Place) -> str | int:
        key = self._scalar(node, place) if isinstance(node, ScalarNode) else node
        if isinstance(key, bool) or not isinstance(key, str | int):
            raise self._error(node, place, "has a key that is neither a word nor a whole number")
        return key

    def _scalar(self, node: ScalarNode, place: Place) -> Any:
        tag = str(node.tag).rpartition(":")[2]
        if tag in ("str", "timestamp"):  # YAML 1.2's core schema has no dates
            try:
                str(node.value).encode()
            except UnicodeEncodeError:
                raise self._error(node, place, "holds a lone surrogate, which is no character") from None
            return str(node.value)
        if tag not in ("int", "float", "bool", "null"):
            raise self._error(node, place, f"has the tag {node.tag}, which a sweep file does not use")
        try:
            value = getattr(self._constructor, f"construct_yaml_{tag}")(node)
        except (ValueError, KeyError, OverflowError):
            is_secret = place[:1] == (SECRET,) or self.name == f"{OPTION} {SECRET}"
            found = "" if is_secret else f"{node.value[:40]!r}, which is "
            raise self._error(node, place, f"is {found}not a value of the type that its tag names") from None
        if isinstance(value, int | float) and not (math.isfinite(value) and abs(value) < 2**63):
            raise self._error(node, place, f"is {node.value[:40]}. Allowed: a finite number below 2^63")
        return value

    def _check_tag(self, node: Node, place: Place, expected: str) -> None:
        if str(node.tag) != expected:
            raise self._error(node, place, f"has the tag {node.tag}, which a sweep file does not use")

    def _error(self, node: Node, place: Place, found: str) -> SpecError:
        return SpecError(f"{_at(self.name, _line(node))}: {write_place(place) or 'the value'} {found}.")


def override(document: Document, option: str) -> Document:
    """Set a value of the document from ``a.b[0].c=value``; creates missing mappings on the way.

    Raises:
        SpecError: there is no ``=``, the value is not YAML, or the path leads through a scalar.
    """
    name = f"{OPTION} {SECRET}" if SECRET in option.partition("=")[0] else f"{OPTION} {option}"
    path, equals, text = option.partition("=")
    tokens = [t[1:-1] if t.startswith("[") else t for t in re.findall(r"\[\d+\]|[^.\[\]]+", path)]
    if not equals or not tokens or not re.fullmatch(r"[^.\[\]=]+(\.[^.\[\]]+|\[\d+\])*", path):
        raise SpecError(f"{name}: is not an override. Allowed: a.b=value or a[0].b=value, such as base.epochs=2.")
    data, root = copy.deepcopy(document.data), _compose(text, name=name)
    place = _put(data, tokens, None if root is None else _Reading(name).value(root, ()), name=name)
    kept = {p: origin for p, origin in document.origins.items() if p[: len(place)] != place}
    return Document(document.name, data, {**kept, place: name})


def _put(node: Any, tokens: Sequence[str], value: Any, *, name: str) -> Place:
    """Set the value inside ``node`` and return its place."""
    place: Place = ()
    while True:
        key, num_used = _choose_key(node, tokens, place=place, name=name)
        tokens = tokens[num_used:]
        place = (*place, key)
        if not tokens:
            node[key] = value
            return place
        if isinstance(node, dict) and node.get(key) is None:
            node[key] = {}
        node = node[key]


def _choose_key(node: Any, tokens: Sequence[str], *, place: Place, name: str) -> tuple[str | int, int]:
    """Return the key or index in ``node`` that the next tokens name, and how many tokens it takes."""
    if isinstance(node, list):
        if not tokens[0].isdecimal() or int(tokens[0]) >= len(node):
            allowed = f"an index from 0 to {len(node) - 1}" if node else "nothing, it is empty"
            raise SpecError(f"{name}: {write_place(place)} is a list and has no {tokens[0]!r}. Allowed: {allowed}.")
        return int(tokens[0]), 1
    if not isinstance(node, dict):
        found = "a value" if place[:1] == (SECRET,) else repr(node)
        raise SpecError(f"{name}: {write_place(place)} is {found}, which has no fields to set.")
    if place == SPACE:  # the parameter that the tokens begin with; otherwise all of them are the path of a new one
        for length in range(len(tokens) - 1, 0, -1):
            joined = ".".join(tokens[:length])
            if joined in node and (tokens[length].isdecimal() or tokens[length] in PARAMETER_FIELDS):
                return joined, length
        return ".".join(tokens), len(tokens)
    return (int(tokens[0]) if tokens[0].isdecimal() and int(tokens[0]) in node else tokens[0]), 1
