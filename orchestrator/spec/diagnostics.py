"""Translates pydantic's errors about a sweep file into lines for people: place, what was found, what is allowed, nearest name."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from orchestrator.errors import SpecError
from orchestrator.spec.document import Document, Place, show, write_place
from orchestrator.spec.model import NOT_YET, Parameter, Row, SweepSpec
from orchestrator.spec.schema import element, literals, model_for
from trainers.config import DataConfig, TrainConfig, suggest

ALLOWED = {
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "string_type": "a text",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "tuple_type": "a list",
    "list_type": "a list",
}
"""Pydantic's errors about a wrong type -> what is allowed there."""

LIMITS = {
    "greater_than_equal": ("at least", "ge"),
    "greater_than": ("above", "gt"),
    "less_than_equal": ("at most", "le"),
    "less_than": ("below", "lt"),
}

M = TypeVar("M", bound=BaseModel)


@dataclass(frozen=True)
class Complaint:
    """One error in a sweep file; ``text`` continues the place (" is 3. Allowed: ...", " is missing.")."""

    place: Place
    text: str


def fail(document: Document, complaints: Iterable[Complaint]) -> SpecError:
    """Build one error of all complaints, one line each, in the order of the file."""
    order = {place: i for i, place in enumerate(document.origins)}

    def position(complaint: Complaint) -> int:
        lengths = range(len(complaint.place), 0, -1)
        return next((order[complaint.place[:n]] for n in lengths if complaint.place[:n] in order), -1)

    lines = [
        f"{document.where(c.place)}: {write_place(c.place)}{c.text}".replace(": :", ":") for c in sorted(complaints, key=position)
    ]
    return SpecError("\n".join(dict.fromkeys(lines)))


def validate(model: type[M], raw: Any, place: Place = ()) -> tuple[M | None, list[Complaint]]:
    """Read ``raw``, which stands at ``place``, as ``model``; returns None and the errors if it is wrong.

    It is validated strictly from JSON: neither true nor '3' is a number, but lists still become tuples.
    """
    text = json.dumps(raw)
    try:
        return model.model_validate_json(text, strict=True), []
    except ValidationError as error:
        wrong = error.errors(include_url=False)
    # Behind a custom validator, such as the loss's, a strict field refuses a list although it came from JSON.
    wrong = [details for details in wrong if not (details["type"] == "tuple_type" and isinstance(details["input"], list))]
    if not wrong:
        try:
            return model.model_validate_json(text), []
        except ValidationError as error:
            wrong = error.errors(include_url=False)
    return None, _explain(wrong, model, raw, place)


def _explain(wrong: Sequence[ErrorDetails], model: type[BaseModel], raw: Any, place: Place) -> list[Complaint]:
    merged: dict[Place, list[ErrorDetails]] = {}
    for details in wrong:
        merged.setdefault(_trace(raw, details), []).append(details)
    complaints = []
    for inner, several in merged.items():
        is_other_branch = all(d["type"] in (*ALLOWED, "too_short") for d in several) and any(
            p[: len(inner)] == inner != p for p in merged
        )
        if not is_other_branch:  # in a union, the branch that fits better complains further inside
            complaints.append(Complaint((*place, *inner), _describe(model, raw, inner, several)))
    # drop 'x is missing' if another line says that 'y' probably means x
    meant = {(*c.place[:-1], m.group(1)) for c in complaints if (m := re.search(r"Did you mean '([^']+)'\?$", c.text))}
    return [c for c in complaints if not (c.text.startswith(" is missing") and c.place in meant)]


def _trace(raw: Any, details: ErrorDetails) -> Place:
    """Return the place in ``raw`` of pydantic's location, which also holds names of union members.

    An error about a whole object whose message begins with the object's ``name`` belongs there.
    """
    place: Place = ()
    for i, part in enumerate(details["loc"]):
        key: str | int | None = None
        if isinstance(raw, dict):
            key = part if part in raw else _other_key(raw, part)
        elif isinstance(raw, list) and isinstance(part, int) and part < len(raw):
            key = part
        if key is not None:
            place, raw = (*place, key), raw[key]
        elif i == len(details["loc"]) - 1 and details["type"] == "missing":
            place = (*place, part)
    if details["type"] == "value_error" and isinstance(raw, dict) and isinstance(name := raw.get("name"), str):
        return (*place, "name") if str(details["ctx"]["error"]).startswith(repr(name)) else place
    return place


def _other_key(raw: Mapping[str | int, Any], part: str | int) -> str | int | None:
    """Find the key of a search space, which is validated as a list, or of a whole number, which JSON writes as text."""
    if isinstance(part, int):
        return list(raw)[part] if part < len(raw) else None
    return next((key for key in raw if not isinstance(key, str) and json.dumps(key) == part), None)


def _look_up(raw: Any, place: Place) -> Any:
    """Return the value at ``place``; None where there is none, such as the second of a pair that has one."""
    for part in place:
        if isinstance(raw, dict):
            raw = raw.get(part)
        else:
            raw = raw[part] if isinstance(raw, list) and isinstance(part, int) and part < len(raw) else None
    return raw


def _annotation_at(model: type[BaseModel], raw: Any, place: Place) -> Any:
    """Return the type of the field at ``place``; None inside free options."""
    annotation: Any = model
    for i, part in enumerate(place):
        value = _look_up(raw, place[:i])
        inner = element(annotation)
        if inner is not None:
            annotation = inner
        elif (chosen := model_for(annotation, value)) is not None:
            field = chosen.model_fields.get(str(part))
            annotation = field.annotation if field else None
        else:
            return None
    return annotation


def _describe(model: type[BaseModel], raw: Any, place: Place, several: Sequence[ErrorDetails]) -> str:
    details, kind = several[0], several[0]["type"]
    found = show(_look_up(raw, place))
    if kind == "extra_forbidden":
        return describe_field(place, model_for(_annotation_at(model, raw, place[:-1]), _look_up(raw, place[:-1])))
    if kind == "missing":
        names = literals(_annotation_at(model, raw, place))
        return " is missing." + (f" Allowed: {', '.join(map(str, names))}." if names else "")
    if kind in ALLOWED:
        allowed = dict.fromkeys(ALLOWED[d["type"]] for d in several if d["type"] in ALLOWED)
        known = [name for d in several if d["type"] == "literal_error" for name in _expected(d)]
        chosen = model_for(_annotation_at(model, raw, place), None)
        fields = f" with {', '.join(_known_fields(chosen))}" if chosen else ""
        hint = suggest(str(_look_up(raw, place)), known)
        return f" is {found}. Allowed: {' or '.join([*known, *allowed])}{fields}.{hint}"
    if kind in LIMITS:
        words, bound = LIMITS[kind]
        return f" is {found}. Allowed: {words} {details['ctx'][bound]:g}."
    if kind == "literal_error":
        known = _expected(details)
        return f" is {found}. Known: {', '.join(known)}.{suggest(str(_look_up(raw, place)), known)}"
    if kind == "too_short":
        return f" has {details['ctx']['actual_length']} entries. Allowed: at least {details['ctx']['min_length']}."
    if kind == "value_error":
        return _describe_value_error(str(details["ctx"]["error"]), _look_up(raw, place))
    return f" is {found}: {details['msg']}."


def _expected(details: ErrorDetails) -> list[str]:
    """Return the texts that a literal allows."""
    return re.findall(r"'([^']*)'", details["ctx"]["expected"])


def _describe_value_error(message: str, value: Any) -> str:
    """Join a message of our own validators to the place; it begins with the found value or continues the place."""
    start = f"{value!r} is not "
    stop = "" if message.endswith((".", "?")) else "."
    if isinstance(value, str) and message.startswith(start):
        return f" is {value!r}, not {message.removeprefix(start)}{stop}"
    return f"{': ' if message.startswith(('a ', '[')) else ' '}{message}{stop}"


def _known_fields(model: type[BaseModel]) -> list[str]:
    if model is Row:  # its other fields are those of base
        return [*Row.model_fields, *TrainConfig.model_fields]
    return [name for name in model.model_fields if not (model is Parameter and name == "path")]


def describe_field(place: Place, model: type[BaseModel] | None, what: str = "a known field") -> str:
    """Describe a field that ``model`` does not have."""
    name = str(place[-1])
    fields = _known_fields(model) if model else []
    if model is SweepSpec and name in NOT_YET:
        return f": this version does not have it yet. Known: {', '.join(fields)}."
    hint = suggest(name, fields)
    homes: list[tuple[str, type[BaseModel]]] = [("base", TrainConfig), ("data", DataConfig)]
    if model is SweepSpec and (home := next((home for home, part in homes if name in part.model_fields), None)):
        hint = f" Did you mean '{home}.{name}'?"
    return f": not {what}. Known: {', '.join(fields)}.{hint}"
