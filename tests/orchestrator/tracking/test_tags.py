"""Tag names stand in one module: no other spells one where tags are read, written or searched."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import orchestrator
from orchestrator.tracking.tags import RunKind, Tag, match_tags, match_trials

PRODUCT = Path(orchestrator.__file__).parent
WRITERS = {"set_tag", "delete_tag", "set_experiment_tag"}
READERS = {"get", "pop", "setdefault"}
FILTER = re.compile(r"\btags\.`?[a-zA-Z]")


def find_literal_tags(source: str) -> list[str]:
    """Line and text of every literal in a position where a tag's name belongs."""
    tree = ast.parse(source)
    documents = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    found = [node for node in _walk_names(tree) if isinstance(node, (ast.Constant, ast.JoinedStr))]
    found += [node for node in ast.walk(tree) if _is_filter(node) and id(node) not in documents]
    return [f"{node.lineno}: {ast.unparse(node)}" for node in found]


def _walk_names(tree: ast.AST) -> Iterator[ast.AST | None]:
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Attribute(attr=attr, value=value), args=[first, *_]) if attr in READERS and _is_tags(value):
                yield first
            case ast.Call(func=ast.Attribute(attr=attr), args=[_, name, *_]) if attr in WRITERS:
                yield name
            case ast.Call(func=ast.Name(id="RunTag"), args=[name, *_]):
                yield name
            case ast.Subscript(value=value, slice=name) if _is_tags(value):
                yield name
            case ast.Compare(left=name, ops=[ast.In() | ast.NotIn()], comparators=[value]) if _is_tags(value):
                yield name
            case ast.Assign(targets=[target], value=value) if _is_tags(target):
                yield from _walk_keys(value)
            case ast.AnnAssign(target=target, value=value) | ast.AugAssign(target=target, value=value) if _is_tags(target):
                yield from _walk_keys(value)
            case ast.keyword(arg="tags", value=value):
                yield from _walk_keys(value)


def _walk_keys(value: ast.AST | None) -> Iterator[ast.AST | None]:
    for node in ast.walk(value) if value is not None else ():
        if isinstance(node, ast.Dict):
            yield from node.keys


def _is_tags(node: ast.AST) -> bool:
    return (isinstance(node, ast.Name) and node.id == "tags") or (isinstance(node, ast.Attribute) and node.attr == "tags")


def _is_filter(node: ast.AST) -> bool:
    """Whether a string, or a part of an f-string, spells out ``tags.name`` of MLflow's search language."""
    return isinstance(node, ast.Constant) and isinstance(node.value, str) and bool(FILTER.search(node.value))


@pytest.mark.parametrize("path", sorted(PRODUCT.rglob("*.py")), ids=lambda path: str(path.relative_to(PRODUCT)))
def test_no_module_but_tags_spells_a_tag(path: Path) -> None:
    """So that a renamed or misspelled tag cannot be read in one place and written in another."""
    if path != PRODUCT / "tracking" / "tags.py":
        assert find_literal_tags(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "source",
    [
        "run.data.tags.get('state')", "tags['state']", "'state' in run.tags", "client.set_tag(run_id, 'state', value)",
        "client.delete_tag(run_id, 'state')", "RunTag('state', value)", "client.search_runs(ids, \"tags.state = 'FAILED'\")",
        "search(ids, f\"tags.state = '{state}'\")", "tags = {'state': value}", "tags: dict[str, str] = {'state': value}",
        "tags |= {'state': value}", "log(run_id, tags={'state': value} | others)", "tags[f'fact.{name}'] = value",
    ],
)  # fmt: skip
def test_a_spelled_tag_is_found(source: str) -> None:
    """The test above can fail."""
    assert len(find_literal_tags(source)) == 1


@pytest.mark.parametrize(
    "source",
    ["tags.get(Tag.STATE)", "tags[Tag.STATE]", "match_tags({Tag.KIND: kind})", "f\"tags.{Tag.KEY} LIKE '{key}%'\"", "tags = {}"],
)
def test_a_named_tag_is_not_found(source: str) -> None:
    """Nor is a docstring that mentions one."""
    assert find_literal_tags(source) == []
    assert find_literal_tags('"""Of ``tags.kind``."""') == []


def test_old_runs_stay_readable() -> None:
    """Values are what earlier versions have written; a changed one would hide their runs."""
    assert match_trials("abc") == "tags.kind = 'trial' and tags.key = 'abc'"
    assert match_tags({Tag.KIND: RunKind.ENSEMBLE, Tag.CURRENT: "true"}) == "tags.kind = 'ensemble' and tags.current = 'true'"
    assert {tag.name.lower() for tag in Tag if tag != tag.name.lower()} == {
        "num_parameters", "latency_ms", "resumed_from", "chosen", "model_identity",
    }  # fmt: skip
    assert [Tag.NUM_PARAMETERS, Tag.LATENCY_MS, Tag.RESUMED_FROM, Tag.CHOSEN, Tag.MODEL_IDENTITY] == [
        "system.num_parameters", "system.latency_ms", "goes_on_from", "chosen_s", "orchestrate.identity",
    ]  # fmt: skip
