"""Checks what a sweep file says about samplers, pruners and stop rules, by names.py and without Optuna; for load.py."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping
from typing import Any

from orchestrator.spec.diagnostics import Complaint, show, validate
from orchestrator.spec.document import Place
from orchestrator.spec.model import SearchSpec, SweepSpec
from orchestrator.spec.optuna_names import PACKAGES, PRUNERS, REQUIRED, SAMPLERS, Options, class_name
from orchestrator.spec.schema import nearest
from orchestrator.spec.sections import PrunerSpec

WORDS: Mapping[type, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a text",
    dict: "a pruner, such as {name: median}",
    type(None): "empty",
}


def check_strategy(spec: SweepSpec) -> Iterator[Complaint]:
    """What is wrong with ``search.method``, ``search.options``, ``pruner`` and ``stop``."""
    if spec.search is not None:
        yield from _check_method(spec.search)
    if spec.pruner is not None:
        yield from _check_pruner(spec.pruner, ("pruner",))
        if class_name(spec.pruner.name) == "WilcoxonPruner" and spec.trials_per_configuration == 1:
            text = " compares trials of a configuration, and each has just one. Add 'folds: 5' or 'seeds: [0, 1, 2]'."
            yield Complaint(("pruner", "name"), f" is {spec.pruner.name!r}, which{text}")
    if spec.stop is not None and not spec.is_open_ended:
        what = "a grid goes" if spec.search else "this sweep goes"
        hint = " 'method: BruteForceSampler' takes a grid's points in random order." if spec.search else ""
        yield Complaint(("stop",), f": {what} through all that the file lists. Allowed with a method that proposes.{hint}")


def _check_method(search: SearchSpec) -> Iterator[Complaint]:
    if search.method == "grid":
        if search.options:
            yield Complaint(("search", "options"), ": method 'grid' has none. Leave them out.")
        return
    name = class_name(search.method)
    yield from _check_packages(name, search.method, ("search", "method"))
    yield from _check_options(name, search.options, SAMPLERS[name], ("search", "options"))
    if name == "BruteForceSampler":
        for parameter in search.space:
            if parameter.values is None and not parameter.is_integer:
                text = " is a range. Allowed with BruteForceSampler: a list of choices, whole numbers, or a range with 'step'."
                yield Complaint(("search", "space", parameter.path), text)


def _check_pruner(pruner: PrunerSpec, place: Place) -> Iterator[Complaint]:
    name = class_name(pruner.name)
    yield from _check_packages(name, pruner.name, (*place, "name"))
    yield from _check_options(name, pruner.options, PRUNERS[name], (*place, "options"))
    if pruner.over is not None and name != "WilcoxonPruner":
        yield Complaint((*place, "over"), f": {pruner.name} compares epochs. Allowed with wilcoxon. Leave it out.")
    if isinstance(wrapped := pruner.options.get("wrapped_pruner"), dict):
        inner: Place = (*place, "options", "wrapped_pruner")
        spec, complaints = validate(PrunerSpec, wrapped, inner)
        yield from complaints if spec is None else _check_pruner(spec, inner)
        if spec is not None and class_name(spec.name) == "WilcoxonPruner":
            yield Complaint((*inner, "name"), f" is {spec.name!r}. Allowed here: pruners that compare epochs.")


def _check_packages(name: str, written: str, place: Place) -> Iterator[Complaint]:
    missing = [package for package in PACKAGES.get(name, ()) if importlib.util.find_spec(package) is None]
    if missing:
        packages = " ".join(missing)
        yield Complaint(place, f" is {written!r}, which needs packages that are not installed: pip install {packages}.")


def _check_options(name: str, options: Mapping[str, Any], known: Options, place: Place) -> Iterator[Complaint]:
    for option, value in options.items():
        if option not in known:
            yield Complaint((*place, option), _describe_unknown(name, option, known))
        elif not _is_any_of(value, known[option]):
            allowed = " or ".join(WORDS[kind] for kind in known[option])
            yield Complaint((*place, option), f" is {show(value)}. Allowed: {allowed}.")
    for option in REQUIRED.get(name, ()):
        if option not in options:
            yield Complaint((*place, option), f" is missing. {name} needs it.")


def _describe_unknown(name: str, option: str, known: Options) -> str:
    if not known:
        return f": {name} has no options. Leave it out."
    hint = f" Did you mean {near!r}?" if (near := nearest(option, known)) else ""
    hint = " Write 'search.seed'." if option == "seed" else hint
    return f": not an option of {name}. Known: {', '.join(known)}.{hint}"


def _is_any_of(value: Any, kinds: tuple[type, ...]) -> bool:
    if isinstance(value, bool):
        return bool in kinds
    return isinstance(value, kinds) or (isinstance(value, int) and float in kinds)
