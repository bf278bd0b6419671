"""What was edited since a sweep of this name was begun last: rows by their ids, a grid's points by their values; pure."""

from __future__ import annotations

import itertools
import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.errors import redact
from orchestrator.planning.configuration import Configuration, Facts
from orchestrator.planning.plan import Plan, row_of
from orchestrator.spec.model import SweepSpec
from trainers.config import TRAINER_VERSION

MAX_PAIRS = 40_000
"""Removed x added points up to which the nearest are looked for."""

MAX_NAMES = 6
MAX_LINES = 12
MAX_LETTERS = 80

OF_TRIALS = ("base", "data", "search", "seeds", "folds")
"""Settings that decide which trials there are; all others change none."""

NOT_KEPT = {"name", "description", "rows", "notify", "priority"}
"""What is no setting: names, rows, which are told by entries, addresses to notify, which may hold passwords, who goes first."""


@dataclass(frozen=True)
class Difference:
    """A field that is not what it was. None: it was not there, or is no more."""

    path: str
    old: Any
    new: Any

    def describe(self) -> str:
        return f"{self.path} {_shorten(_show(self.old))} -> {_shorten(_show(self.new))}"

    def to_json(self) -> dict[str, Any]:
        return {"field": self.path, "old": self.old, "new": self.new}


@dataclass(frozen=True)
class Entry:
    """A configuration. point: its row's id or the values that the search chose, as canonical text; fields: all of what is
    trained, nested, with what the data and the user's code were.
    """

    id: str
    label: str
    row: str | None
    point: str
    fields: Mapping[str, Any]


@dataclass(frozen=True)
class Content:
    """What a sweep comes to: entries of what is planned, and all else that its file says. written_s: when it was kept."""

    settings: dict[str, Any]
    entries: tuple[Entry, ...]
    written_s: float | None = None


@dataclass(frozen=True)
class Changed:
    """A configuration that has taken another's place."""

    entry: Entry
    differences: tuple[Difference, ...]


@dataclass(frozen=True)
class Changes:
    """Between two contents. settings: differences outside of configurations; num_unchanged: configurations."""

    since_s: float
    added: tuple[Entry, ...]
    removed: tuple[Entry, ...]
    changed: tuple[Changed, ...]
    settings: tuple[Difference, ...]
    num_unchanged: int

    @property
    def is_empty(self) -> bool:
        return not (self.added or self.removed or self.changed or self.settings)

    def to_json(self) -> dict[str, Any]:
        return {
            "since_s": self.since_s,
            "added": [_name_json(entry) for entry in self.added],
            "removed": [_name_json(entry) for entry in self.removed],
            "changed": [_name_json(c.entry) | {"fields": [d.to_json() for d in c.differences]} for c in self.changed],
            "unchanged": self.num_unchanged,
            "settings": [difference.to_json() for difference in self.settings],
        }

    def describe(self, num_left: Mapping[str, int]) -> list[str]:
        """Lines for people. num_left: configuration's id -> its trials that are still to run."""
        lines = list(self._describe_changed(num_left))
        if self.added:
            lines.append(f"added: {_list_names(self.added)}{_say_left(self.added, num_left)}")
        if self.removed:
            lines.append(f"removed: {_list_names(self.removed)}; what is done of it stays, and is found again when it comes back")
        of_trials = [d for d in self.settings if d.path.split(".")[0] in OF_TRIALS]
        others = [d for d in self.settings if d not in of_trials]
        lines += [f"{difference.describe()}" for difference in of_trials]
        if others:
            lines.append(f"settings that change no trial: {'; '.join(d.describe() for d in others)}")
        return lines

    def _describe_changed(self, num_left: Mapping[str, int]) -> Iterator[str]:
        """A line for all that were changed alike."""
        alike: defaultdict[str, list[Entry]] = defaultdict(list)
        for changed in self.changed:
            alike["; ".join(difference.describe() for difference in _without_echo(changed.differences))].append(changed.entry)
        for number, (what, entries) in enumerate(alike.items()):
            if number == MAX_LINES:
                yield f"{sum(map(len, list(alike.values())[number:]))} more changed; --plan --json lists them"
                return
            is_all = len(entries) == len(self.changed) + len(self.added) + self.num_unchanged > 1
            names = f"all {len(entries)} configurations" if is_all else _list_names(entries)
            yield f"{names} changed: {what}{_say_left(entries, num_left)}"


def content_of(spec: SweepSpec, plan: Plan) -> Content:
    """What a sweep comes to. What a search proposes as it goes is no content; its space is."""
    settings = spec.model_dump(mode="json", exclude=NOT_KEPT if plan.open_ended else NOT_KEPT | {"base", "data"})
    if settings["search"] and not plan.open_ended:
        del settings["search"]["space"]
    if plan.open_ended:
        settings["base"] |= {"trainer_version": TRAINER_VERSION}
        settings["data"] |= {"content": sorted({data.fingerprint for data in plan.facts.data.values()})}
    entries = () if plan.open_ended else tuple(_enter(c, plan.facts) for c in plan.configurations)
    return Content(_redact(settings), entries)


def _enter(configuration: Configuration, facts: Facts) -> Entry:
    train, data, found = configuration.train, configuration.data, facts.of(configuration.data)
    fields = train.model_dump(mode="json") | {
        "data": data.model_dump(mode="json") | {"content": found.fingerprint, "num_removed": len(found.removed)},
        "seed": configuration.seed,
        "code": facts.code_of(train),
        "trainer_version": TRAINER_VERSION,
    }
    point = json.dumps(configuration.params, sort_keys=True, default=str)
    return Entry(configuration.id, configuration.label, row_of(configuration), point, _redact(fields))


def compare(old: Content, new: Content) -> Changes:
    """Tell what was added, removed and changed from ``old`` to ``new``."""
    before, after = old.entries, new.entries
    pairs: list[tuple[Entry, Entry]] = []
    ways: tuple[Callable[[Entry], object], ...] = (lambda e: (e.point, _key(e)), lambda e: e.point, _key)
    for identify in ways:
        matched, before, after = _match(before, after, identify)
        pairs += matched
    nearest, before, after = _match_nearest(before, after)
    changed = [(was, entry) for was, entry in pairs if _key(was) != _key(entry)] + nearest
    return Changes(
        since_s=old.written_s or 0.0,
        added=after,
        removed=() if _is_open_ended(new) else before,
        changed=tuple(Changed(entry, tuple(find_differences(was.fields, entry.fields))) for was, entry in changed),
        settings=tuple(_compare_settings(old, new)),
        num_unchanged=len(pairs) + len(nearest) - len(changed),
    )


def _key(entry: Entry) -> tuple[str, Any]:
    """What is trained: equal keys mean equal trials, up to the sweep's seeds and folds."""
    return entry.id, entry.fields.get("seed")


def _is_open_ended(content: Content) -> bool:
    return "base" in content.settings


def _compare_settings(old: Content, new: Content) -> Iterator[Difference]:
    if _is_open_ended(old) == _is_open_ended(new):
        return find_differences(old.settings, new.settings)
    left_out = ("base", "data", "search")  # told by entries there, and here by themselves: there is nothing to compare
    ours, theirs = ({k: v for k, v in content.settings.items() if k not in left_out} for content in (new, old))
    method = Difference("search.method", _method(old), _method(new))
    return itertools.chain([method], find_differences(theirs, ours))


def _method(content: Content) -> str | None:
    search = content.settings.get("search")
    return search["method"] if search else None


Entries = tuple[Entry, ...]
Pairs = list[tuple[Entry, Entry]]


def _match(before: Entries, after: Entries, identify: Callable[[Entry], object]) -> tuple[Pairs, Entries, Entries]:
    """Pairs that ``identify`` calls the same, and what is left of both."""
    by_name = {identify(entry): entry for entry in before}
    pairs: Pairs = []
    left: list[Entry] = []
    for entry in after:
        was = by_name.pop(identify(entry), None)
        if was is None:
            left.append(entry)
        else:
            pairs.append((was, entry))
    return pairs, tuple(by_name.values()), tuple(left)


def _match_nearest(before: Entries, after: Entries) -> tuple[Pairs, Entries, Entries]:
    """Pairs of points of which each is the other's only nearest; rows are known by their ids alone."""
    ours, theirs = ([(entry, _leaves(entry)) for entry in entries if entry.row is None] for entries in (after, before))
    if not ours or not theirs or len(ours) * len(theirs) > MAX_PAIRS:
        return [], before, after
    distances = [[len(leaves ^ others) for _, others in theirs] for _, leaves in ours]
    pairs: Pairs = []
    for i, row in enumerate(distances):
        j = row.index(min(row))
        column = [distances_of_other[j] for distances_of_other in distances]
        if row.count(min(row)) == 1 and column.count(min(column)) == 1 and column.index(min(column)) == i:
            pairs.append((theirs[j][0], ours[i][0]))
    taken = {id(entry) for pair in pairs for entry in pair}
    return pairs, tuple(e for e in before if id(e) not in taken), tuple(e for e in after if id(e) not in taken)


def _leaves(entry: Entry) -> frozenset[str]:
    """Every field with its value, for counting in how many two entries differ."""
    return frozenset(f"{path}={value!r}" for path, value in _walk(entry.fields))


def _walk(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        for name, inner in value.items():
            yield from _walk(inner, f"{path}.{name}")
    else:
        yield path, value


def find_differences(old: Mapping[str, Any], new: Mapping[str, Any], path: str = "") -> Iterator[Difference]:
    """Fields that differ, by dotted path. What has a name of its own, such as a loss, is one value when its name changes."""
    for name in [*old, *(name for name in new if name not in old)]:
        was, now, place = old.get(name), new.get(name), f"{path}.{name}" if path else name
        if was == now:
            continue
        if isinstance(was, Mapping) and isinstance(now, Mapping) and was.get("name") == now.get("name"):
            yield from find_differences(was, now, place)
        else:
            yield Difference(place, was, now)


def _redact(value: Any) -> Any:
    """Without passwords of addresses: what is kept here is shown again later."""
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, Mapping):
        return {name: _redact(inner) for name, inner in value.items()}
    return [_redact(inner) for inner in value] if isinstance(value, list | tuple) else value


def _show(value: Any) -> str:
    """As a sweep file would have it, without what is not set."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{name}: {_show(inner)}" for name, inner in value.items() if inner is not None) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_show, value)) + "]"
    if value is None or isinstance(value, bool):
        return "none" if value is None else str(value).lower()
    return f"{value:.12g}" if isinstance(value, float) else str(value)


def _without_echo(differences: Sequence[Difference]) -> Iterator[Difference]:
    """Without what the data hold, where other data are asked for anyway: hashes tell a person nothing then."""
    others = [d for d in differences if d.path != "data.content"]
    return iter(others if any(d.path.startswith("data.") for d in others) else differences)


def _shorten(text: str) -> str:
    return text if len(text) <= MAX_LETTERS else f"{text[:MAX_LETTERS]} ..."


def _name_json(entry: Entry) -> dict[str, Any]:
    return {"configuration": entry.id, "name": entry.label, "row": entry.row}


def _list_names(entries: Sequence[Entry]) -> str:
    names = ", ".join(entry.label for entry in entries[:MAX_NAMES])
    more = len(entries) - MAX_NAMES
    return f"{names} and {more} more" if more > 0 else names


def _say_left(entries: Iterable[Entry], num_left: Mapping[str, int]) -> str:
    left = sum(num_left.get(entry.id, 0) for entry in entries)
    return f" ({left} to train)" if left else " (done already)"
