"""Sweep files generated from the schema: each gives a valid plan or a clear error, never a traceback and never a hang."""

from __future__ import annotations

import json
import types
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from functools import cache
from io import StringIO
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import optuna
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from orchestrator.cli import main
from orchestrator.errors import SpecError
from orchestrator.search.options import model_options
from orchestrator.spec import Row, SweepSpec, load_spec
from orchestrator.spec.schema import known_paths
from orchestrator.spec.sections import Method, PrunerName, class_name
from trainers.config import DataConfig, TrainConfig

Strategy = st.SearchStrategy[Any]

WORDS = ["Unet", "FPN", "resnet18", "mobilenet_v2", "synthetic", "focal", "dice", "flip", "none", "auto", "a", "${HOME}", "", "é"]
SCALARS: Strategy = (
    st.none() | st.booleans() | st.integers(-2, 9) | st.floats(-2, 9, width=16) | st.sampled_from([10**18, 1e300, *WORDS])
)
JUNK: Strategy = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(WORDS), inner, max_size=2), max_leaves=4
)


def often(valid: Strategy) -> Strategy:
    """Mostly valid values, so that a file gets past its first error."""
    return st.integers(0, 24).flatmap(lambda roll: JUNK if roll == 24 else valid)


def fitting(annotation: Any, depth: int = 3) -> Strategy:
    """Values of a type, as JSON; not all of them are within its limits."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return fitting(arguments[0], depth)
    if origin in (Union, types.UnionType):
        return st.one_of(*(fitting(argument, depth) for argument in arguments))
    if origin is Literal:
        return st.sampled_from(arguments)
    if origin is tuple:
        return st.lists(fitting(arguments[0], depth - 1), min_size=1, max_size=2)
    if origin is dict:
        return st.dictionaries(st.sampled_from(WORDS), SCALARS, max_size=2)
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return fields_of(annotation, depth - 1)
    return PLAIN.get(annotation, JUNK)


PLAIN: dict[Any, Strategy] = {
    type(None): st.none(),
    bool: st.booleans(),
    int: st.integers(1, 4),
    float: st.sampled_from([0.125, 0.25, 0.5, 1, 2, 1e-4]),
    str: st.sampled_from(WORDS),
}


@cache
def fields_of(model: type[BaseModel], depth: int) -> Strategy:
    """Some of a model's fields; always the required ones and ``name``, which chooses among models."""
    if depth < 0:
        return JUNK
    fields = {name: often(fitting(field.annotation, depth)) for name, field in model.model_fields.items()}
    always = [name for name, field in model.model_fields.items() if field.is_required() or name == "name"]
    required = {name: fields.pop(name) for name in always}
    return st.lists(st.sampled_from(sorted(fields)), max_size=3, unique=True).flatmap(
        lambda chosen: st.fixed_dictionaries(required | {name: fields[name] for name in chosen})
    ) if fields else st.fixed_dictionaries(required)  # fmt: skip


def space() -> Strategy:
    """Search spaces of real paths, with choices, ranges and conditions."""
    paths = st.sampled_from([*sorted(known_paths()), "loss.gamma", "epochs", "optimizer.lr", "no.such", ""])
    choices = st.lists(SCALARS | fitting(TrainConfig.model_fields["loss"].annotation, 2), max_size=3)
    conditions = st.dictionaries(paths, SCALARS | st.lists(SCALARS, max_size=2), max_size=1)
    ranges = {name: often(st.sampled_from([1, 2, 4, 0.25, 0.5])) for name in ("low", "high", "step")}
    entry = st.fixed_dictionaries({}, optional={**ranges, "log": st.booleans(), "choices": choices, "when": conditions})
    return st.dictionaries(paths, often(choices | entry), min_size=1, max_size=3)


IDS: Strategy = st.integers(0, 3) | st.sampled_from(["a", "1"])


def rows() -> Strategy:
    """Rows, which hold fields of base directly."""
    own = {name: often(fitting(field.annotation, 1)) for name, field in Row.model_fields.items() if name not in ("id", "data")}
    base, data = fields_of(TrainConfig, 2), fields_of(DataConfig, 1)
    row = st.builds(
        lambda base, own: {**(base if isinstance(base, dict) else {}), **own},
        base,
        st.fixed_dictionaries({"id": often(IDS)}, optional=own | {"data": often(data)}),
    )
    return st.lists(often(row), min_size=1, max_size=3)


def named(known: list[str], module: ModuleType) -> Strategy:
    """A sampler or a pruner, with options of any of them."""
    owners = [getattr(module, class_name(name)) for name in known if name != "grid"]
    names = {name for owner in owners for name in model_options(owner).model_fields}
    return st.tuples(st.sampled_from(known), st.dictionaries(st.sampled_from([*sorted(names), "x"]), SCALARS, max_size=2))


def documents(**fixed: Strategy) -> Strategy:
    """Whole files, with any combination of the schema's keys."""
    searches = st.builds(
        lambda method, space: {"method": method[0], "options": method[1], "space": space},
        named(["grid", *get_args(Method)], optuna.samplers),
        space(),
    )
    pruners = st.builds(
        lambda pruner: {"name": pruner[0], "options": pruner[1]}, named(list(get_args(PrunerName)), optuna.pruners)
    )
    members = st.lists(often(IDS), min_size=1, max_size=3)
    ensembles = st.lists(often(st.fixed_dictionaries({"id": often(IDS), "members": often(members)})), max_size=2)
    special: dict[str, Strategy] = {
        "search": searches,
        "rows": rows(),
        "pruner": pruners,
        "ensembles": ensembles,
        "name": st.just("fuzz"),
    }
    keys = {
        name: often(special.get(name, fitting(field.annotation)))
        for name, field in SweepSpec.model_fields.items()
        if name not in fixed
    }
    return st.sets(st.sampled_from([*keys, "search", "rows"]), max_size=6).flatmap(
        lambda chosen: st.fixed_dictionaries({name: keys[name] for name in sorted(chosen)} | fixed)
    )


@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(document=documents())
def test_a_file_of_the_real_schema_is_a_spec_or_a_clear_error(
    document: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Each line of the error begins with the file."""
    path = tmp_path_factory.getbasetemp() / "fuzz.yaml"
    path.write_text(json.dumps(document), encoding="utf-8")  # JSON is YAML
    spec, complaint = read(path)
    assert [line for line in complaint.splitlines() if not line.startswith(str(path))] == []
    if spec is not None:
        assert SweepSpec.model_validate_json(spec.model_dump_json()).model_dump() == spec.model_dump()


def read(path: Path) -> tuple[SweepSpec | None, str]:
    """The spec, or the error."""
    try:
        return load_spec(path), ""
    except SpecError as error:
        return None, str(error)


TINY = {"source": "synthetic", "synthetic": {"num_images": 16, "height": 32, "width": 64}}
SMALL_DATA = st.builds(
    lambda more: {**TINY, **more},
    st.fixed_dictionaries(
        {},
        optional={
            "limit": st.integers(1, 20),
            "val_fraction": st.sampled_from([0.01, 0.25, 0.9]),
            "ignore_classes": st.lists(st.integers(0, 6), max_size=6),
            "clean": st.just("auto") | st.lists(st.integers(0, 16), max_size=16),
        },
    ),
)


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[dict[str, Any]], tuple[int, str, str]]]:
    """`orchestrate sweep FILE --plan --json` in this process: exit code, standard output and standard error."""
    folder = tmp_path_factory.mktemp("plans")
    path = folder / "fuzz.yaml"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("ORCHESTRATE_HOME", str(folder / "home"))
        for variable in ("MLFLOW_TRACKING_URI", "ORCHESTRATE_STORAGE", "ORCHESTRATE_NOTIFY"):
            patch.delenv(variable, raising=False)

        def run(document: dict[str, Any]) -> tuple[int, str, str]:
            path.write_text(json.dumps(document), encoding="utf-8")
            patch.setattr("sys.argv", ["orchestrate", "sweep", str(path), "--plan", "--json"])
            with redirect_stdout(StringIO()) as out, redirect_stderr(StringIO()) as err, pytest.raises(SystemExit) as exited:
                main()
            return int(exited.value.code or 0), out.getvalue(), err.getvalue()

        yield run


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(document=documents(data=SMALL_DATA))
def test_a_file_is_planned_or_refused(document: dict[str, Any], plan: Callable[[dict[str, Any]], tuple[int, str, str]]) -> None:
    """Exit code 0 and a whole document, or 2 and a message."""
    code, out, err = plan(document)
    assert code in (0, 2), err
    if code == 0:
        assert {trial["state"] for trial in json.loads(out)["trials"]} <= {"WAITING"}
    else:
        assert err.startswith("error: ")
        assert (out, "Traceback" in err) == ("", False)
