"""Checks options of samplers and pruners against Optuna's own signatures; called when a sweep is planned, before it runs."""

import importlib.util
import inspect
import warnings
from collections.abc import Callable, Mapping
from functools import reduce
from operator import or_
from typing import Any

import optuna
from pydantic import BaseModel, create_model

from orchestrator.search.pruning import build_pruner
from orchestrator.search.sampling import build_sampler
from orchestrator.spec.diagnostics import Complaint, describe_field, fail, validate
from orchestrator.spec.document import Place
from orchestrator.spec.model import SearchSpec, SweepSpec
from orchestrator.spec.sections import Part, PrunerSpec, class_name, compares_trials

PACKAGES: Mapping[str, tuple[str, ...]] = {
    "CmaEsSampler": ("cmaes",),
    "GPSampler": ("scipy", "torch"),
    "QMCSampler": ("scipy",),
    "WilcoxonPruner": ("scipy",),
}
"""What Optuna imports when one of these is used first, which is too late for a message."""

TYPES: Mapping[str, Any] = {"bool": bool, "int": int, "float": float, "str": str, "None": None, "BasePruner": PrunerSpec}
"""Annotation in Optuna -> type in a sweep file. An option that takes anything else takes code, which no file can hold."""


def check_search(spec: SweepSpec) -> None:
    """Check the options of the sweep's sampler and pruner.

    Raises:
        SpecError: Optuna does not have an option, or refuses its value. The message names the place in the sweep file.
    """
    complaints: list[Complaint] = []
    if spec.search is not None and spec.is_open_ended:
        complaints += _check_sampler(spec.search)
    if spec.pruner is not None:
        complaints += _check_pruner(spec.pruner, ("pruner",))
    if complaints:
        raise fail(spec.document, complaints)


def _check_sampler(search: SearchSpec) -> list[Complaint]:
    sampler, place = getattr(optuna.samplers, class_name(search.method)), ("search", "options")
    complaints = _check_packages(search.method, ("search", "method")) + _check_options(sampler, search.options, place)
    return complaints or _try_to_build(lambda: build_sampler(search), place)


def _check_pruner(pruner: PrunerSpec, place: Place) -> list[Complaint]:
    complaints = _check_packages(pruner.name, (*place, "name"))
    complaints += _check_options(getattr(optuna.pruners, class_name(pruner.name)), pruner.options, (*place, "options"))
    if not complaints and (wrapped := pruner.options.get("wrapped_pruner")) is not None:
        inner, inner_place = PrunerSpec.model_validate(wrapped), (*place, "options", "wrapped_pruner")
        if compares_trials(inner.name):
            complaints = [Complaint((*inner_place, "name"), f" is {inner.name!r}. Allowed here: pruners that compare epochs.")]
        complaints += _check_pruner(inner, inner_place)
    return complaints or _try_to_build(lambda: build_pruner(pruner), (*place, "options"))


def _check_packages(name: str, place: Place) -> list[Complaint]:
    missing = [package for package in PACKAGES.get(class_name(name), ()) if importlib.util.find_spec(package) is None]
    text = f" is {name!r}, which needs packages that are not installed: pip install {' '.join(missing)}."
    return [Complaint(place, text)] if missing else []


def _check_options(owner: type, options: Mapping[str, Any], place: Place) -> list[Complaint]:
    model = model_options(owner)
    complaints = []
    known = {option: value for option, value in options.items() if option in model.model_fields}
    for option in options.keys() - known.keys():
        if not model.model_fields:
            text = f": {owner.__name__} has no options. Leave it out."
        elif option == "seed":
            text = f": not an option of {owner.__name__}. Write 'search.seed'."
        else:
            text = describe_field((option,), model, what=f"an option of {owner.__name__}")
        complaints.append(Complaint((*place, option), text))
    return complaints + validate(model, known, place)[1]


def model_options(owner: type) -> type[BaseModel]:
    """The options that a sweep file may give, with Optuna's types and defaults."""
    fields: dict[str, Any] = {}
    for name, parameter in inspect.signature(owner).parameters.items():
        kinds = inspect.formatannotation(parameter.annotation).strip("'").split(" | ")
        if name != "seed" and all(kind in TYPES for kind in kinds):
            default = ... if parameter.default is inspect.Parameter.empty else parameter.default
            fields[name] = (reduce(or_, (TYPES[kind] for kind in kinds)), default)
    return create_model(owner.__name__, __base__=Part, **fields)


def _try_to_build(build: Callable[[], object], place: Place) -> list[Complaint]:
    """Let Optuna check the values; it warns of options that it will remove, which are refused too."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", FutureWarning)
            build()
    except (ValueError, TypeError, FutureWarning) as error:
        return [Complaint(place, f": Optuna refuses them: {error}")]
    return []
