"""Sweep file -> SweepSpec: reads, overrides, validates, and tries every choice, so that errors appear before anything runs."""

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from orchestrator.spec.diagnostics import Complaint, describe_field, fail, validate
from orchestrator.spec.document import Document, Place, override, read_document, show
from orchestrator.spec.model import Row, SearchSpec, SweepSpec
from orchestrator.spec.schema import are_related, is_known_path, known_paths
from orchestrator.spec.sections import compares_trials
from orchestrator.spec.space import (
    MAX_POINTS,
    BuildError,
    build_point,
    build_row,
    enumerate_points,
    place_of,
    reads_source,
    sample_points,
)
from trainers.config import DataConfig, TrainConfig, find_nearest, suggest

SYNTHETIC = "synthetic"
MAX_COMPLAINTS = 20


def load_spec(path: Path, overrides: Sequence[str] = ()) -> SweepSpec:
    """Read a sweep file and check all of it, except what search.check_search asks Optuna.

    overrides: ``a.b=c``, applied in order. Relative paths of ``data.source`` and ``data.clean`` start at the file's folder, those
    of overrides at the working directory; the result holds absolute paths.

    Raises:
        SpecError: the file has errors. One line for each: ``FILE:LINE: place: found. Allowed. Nearest name.``
    """
    document = _set_sources(read_document(path), path.parent)
    for option in overrides:
        document = _set_sources(override(document, option), Path())
    document.data.setdefault("name", path.stem)
    spec, complaints = validate(SweepSpec, document.data)
    if spec is None:
        raise fail(document, complaints)
    spec.remember(document)
    checks = (_check_outline, _check_strategy, _check_paths, _check_conditions, _check_values, _check_points, _check_rows)
    for check in checks:  # each relies on those before it
        if found := list(itertools.islice(check(spec), MAX_COMPLAINTS)):
            raise fail(document, found)
    return spec


def _set_sources(document: Document, folder: Path) -> Document:
    """Make relative paths of data sets and of their checks absolute; values that are no text are left to the validation."""

    def make_absolute(written: Any, place: Place) -> Any:
        is_clean = str(place[-1]).endswith("clean")
        is_path = isinstance(written, str) and (written.endswith(".json") if is_clean else written not in (SYNTHETIC, ""))
        try:
            return str(Path(folder, Path(written).expanduser()).resolve()) if is_path else written
        except (OSError, RuntimeError, ValueError) as error:  # links in a circle, an unknown home, a null byte
            text = f" is {show(written)}, a path that cannot be followed: {error}"
            raise fail(document, [Complaint(place, text)]) from None

    data, rows, search = document.data, document.data.get("rows"), document.data.get("search")
    holders: list[tuple[Place, Any]] = [(("data",), data.get("data"))]
    for i, row in enumerate(rows if isinstance(rows, list) else ()):
        holders += [(("rows", i, "data"), row.get("data"))] if isinstance(row, dict) else []
    space = search.get("space") if isinstance(search, dict) else None
    for field in ("source", "clean"):
        for place, holder in holders:
            if isinstance(holder, dict) and field in holder:
                holder[field] = make_absolute(holder[field], (*place, field))
        entry = space.get(f"data.{field}") if isinstance(space, dict) else None
        choices = entry.get("choices") if isinstance(entry, dict) else entry
        if isinstance(choices, list):
            choices[:] = [make_absolute(choice, ("search", "space", f"data.{field}")) for choice in choices]
    return document


def _check_outline(spec: SweepSpec) -> Iterator[Complaint]:
    if spec.search and spec.rows:
        yield Complaint(("rows",), ": is given together with search. Use only one.")
    if spec.ensembles and not spec.rows:
        yield Complaint(("ensembles",), ": members are rows, and the file has none. Add 'rows'.")
    yield from _check_ids([row.id for row in spec.rows], "rows")
    yield from _check_ids([ensemble.id for ensemble in spec.ensembles], "ensembles")
    known = [str(row.id) for row in spec.rows]
    for i, ensemble in enumerate(spec.ensembles if spec.rows else ()):
        for j, member in enumerate(ensemble.members):
            place: Place = ("ensembles", i, "members", j)
            if str(member) not in known:
                hint = suggest(str(member), known)
                yield Complaint(place, f" is {member!r}, not the id of a row. Known: {', '.join(known)}.{hint}")
            elif member in ensemble.members[:j]:
                yield Complaint(place, f" is {member!r}, which is a member already. Allowed: distinct ids of rows.")
    if spec.search and spec.is_open_ended:
        num_each, num_trials = spec.trials_per_configuration, spec.budget.trials if spec.budget else None
        if num_trials is None:
            text = f" is {spec.search.method!r}, which never ends by itself. Add 'budget: {{trials: 50}}'."
            yield Complaint(("search", "method"), text)
        elif num_trials < num_each:
            text = f" is {num_trials}, but one configuration takes {num_each} trials (seeds x folds). Allowed: at least that."
            yield Complaint(("budget", "trials"), text)


def _check_strategy(spec: SweepSpec) -> Iterator[Complaint]:
    """Check what the method and the pruner allow; search.check_search checks their options."""
    search, pruner = spec.search, spec.pruner
    if search and search.method == "grid" and search.options:
        yield Complaint(("search", "options"), ": method 'grid' has none. Leave them out.")
    if pruner and compares_trials(pruner.name) and spec.trials_per_configuration == 1:
        text = "compares trials of a configuration, and each has just one. Add 'folds: 5' or 'seeds: [0, 1, 2]'."
        yield Complaint(("pruner", "name"), f" is {pruner.name!r}, which {text}")
    if spec.stop and not spec.is_open_ended:
        hint = " 'method: BruteForceSampler' takes a grid's points in random order." if search else ""
        text = ": this sweep runs everything that the file lists. Allowed with a method that proposes configurations."
        yield Complaint(("stop",), text + hint)


def _check_ids(ids: Sequence[int | str], what: str) -> Iterator[Complaint]:
    for i, written in enumerate(map(str, ids)):
        first = [str(other) for other in ids].index(written)
        if first < i:
            yield Complaint((what, i, "id"), f" is {ids[i]!r}, like {what}[{first}].id. Allowed: distinct ids.")


def _check_paths(spec: SweepSpec) -> Iterator[Complaint]:
    for parameter in spec.search.space if spec.search else ():
        at: Place = ("search", "space", parameter.path)
        for place, path in ((at, parameter.path), *(((*at, "when", path), path) for path in parameter.when or ())):
            if not is_known_path(path):
                yield Complaint(place, _describe_path(path))


def _describe_path(path: str) -> str:
    """Describe a dotted path that leads nowhere, with its neighbours and the nearest path."""
    parent = path.rpartition(".")[0]
    while parent and not any(known.startswith(f"{parent}.") for known in known_paths()):
        parent = parent.rpartition(".")[0]
    prefix = f"{parent}." if parent else ""
    neighbours = [p for p in known_paths() if p.startswith(prefix) and "." not in p.removeprefix(prefix)]
    hint = find_nearest(path, known_paths()) or find_nearest(path.rpartition(".")[2], neighbours)
    base = path.removeprefix("base.")
    hint = base if base != path and is_known_path(base) else hint
    return f": not a field of base or data. Known: {', '.join(neighbours)}." + (f" Did you mean {hint!r}?" if hint else "")


def _check_conditions(spec: SweepSpec) -> Iterator[Complaint]:
    """Check the order: conditions and nested paths refer to parameters above them."""
    space = spec.search.space if spec.search else ()
    for i, parameter in enumerate(space):
        at: Place = ("search", "space", parameter.path)
        for below in space[i + 1 :]:
            if parameter.path.startswith(f"{below.path}."):
                yield Complaint(at, f": stands above {below.path!r}, which overwrites it. Put it below.")
            for path in parameter.when or ():
                if are_related(path, below.path):
                    yield Complaint((*at, "when", path), f": is set by {below.path!r} further down. Put this parameter below it.")
        for path in parameter.when or ():
            if any(other.path == path and other.values is None for other in space[:i]):
                yield Complaint((*at, "when", path), ": is a range. Allowed in conditions: parameters with choices.")


def _check_values(spec: SweepSpec) -> Iterator[Complaint]:
    if spec.search is None:
        return
    for parameter in spec.search.space:
        at: Place = ("search", "space", parameter.path)
        if parameter.values is None and not spec.is_open_ended:
            yield Complaint(at, " is a range. Allowed in a grid: a list of choices, or a range with 'step'.")
        elif parameter.values is None and spec.search.method == "BruteForceSampler" and not parameter.is_integer:
            text = " is a range. Allowed with BruteForceSampler: a list of choices, whole numbers, or a range with 'step'."
            yield Complaint(at, text)
        elif parameter.values is None and reads_source(parameter.path):
            yield Complaint(at, " is a range. Allowed for fields that decide which data are read: a list of choices.")
        elif parameter.choices is None and parameter.step is not None and len(parameter.values or ()) > MAX_POINTS:
            yield Complaint((*at, "step"), f" makes more than {MAX_POINTS} values. Use a larger step.")


def _check_points(spec: SweepSpec) -> Iterator[Complaint]:
    """Build every choice in every context that matters to it, and a grid completely."""
    if spec.search is None:
        return
    seen_active: set[str] = set()
    blamed: set[Place] = set()
    for params in sample_points(spec.search, spec.base, spec.data):
        seen_active |= params.keys()
        for complaint in _try_point(spec, params)[1]:
            if complaint.place not in blamed:
                yield complaint
            blamed.add(complaint.place)
    if blamed:
        return
    for parameter in spec.search.space:
        if parameter.path not in seen_active:
            yield Complaint(("search", "space", parameter.path, "when"), " never holds, so the parameter is never used.")
    if not spec.is_open_ended:
        yield from _check_grid(spec, spec.search)


def _check_grid(spec: SweepSpec, search: SearchSpec) -> Iterator[Complaint]:
    points = enumerate_points(search.space, spec.base, spec.data, values=lambda p: p.values or ())
    built: dict[str, dict[str, Any]] = {}
    for i, params in enumerate(points):
        if i == MAX_POINTS:
            yield Complaint(
                ("search", "space"), f" has more than {MAX_POINTS} points. Shorten it, or use 'method: tpe' with a budget."
            )
            return
        identity, complaints = _try_point(spec, params)
        yield from complaints
        if complaints:
            return
        if identity in built:
            points_text = f"{show(built[identity])} and {show(params)}"
            yield Complaint(("search", "space"), f": the points {points_text} are one configuration. Leave one out.")
            return
        built[identity] = params


def _try_point(spec: SweepSpec, params: dict[str, Any]) -> tuple[str, list[Complaint]]:
    """Build a point; returns the configuration as text, and the complaints about it if it is not valid."""
    try:
        return _write(*build_point(spec.base, spec.data, params)), []
    except BuildError as error:
        return "", [_blame(spec, params, complaint) for complaint in error.complaints]


def _write(train: TrainConfig, data: DataConfig) -> str:
    return f"{train.model_dump_json()} {data.model_dump_json()}"


def _blame(spec: SweepSpec, params: dict[str, Any], complaint: Complaint) -> Complaint:
    """Move a complaint about a configuration to the choice that caused it."""
    place = place_of(spec.search, params, complaint.place)
    path = next((str(part) for part in place[2:3]), "")
    around = {p: v for p, v in params.items() if p != path and are_related(p, path)}
    if place[:1] != ("search",) or not around:
        return Complaint(place, complaint.text)
    return Complaint(place, f"{complaint.text} This happens where {show(around)}; 'when' can exclude it there.")


def _check_rows(spec: SweepSpec) -> Iterator[Complaint]:
    built: dict[str, list[tuple[int, Row]]] = {}
    for i, row in enumerate(spec.rows):
        unknown = [name for name in row.train if name not in TrainConfig.model_fields]
        yield from (Complaint(("rows", i, name), describe_field((name,), Row)) for name in unknown)
        if unknown:
            continue
        try:
            train, data = build_row(spec.base, spec.data, row)
        except BuildError as error:
            yield from (Complaint(("rows", i, *c.place), c.text) for c in error.complaints)
            continue
        same = built.setdefault(_write(train, data), [])
        for j, other in same:
            if other.seed is None or row.seed is None or other.seed == row.seed:
                who = f"rows[{j}] (id {other.id!r})"
                yield Complaint(("rows", i), f": id {row.id!r} is the same training as {who}. Give each its own 'seed'.")
        same.append((i, row))
