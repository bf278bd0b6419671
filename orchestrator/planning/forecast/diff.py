"""Compares a plan with the snapshot of the last run: rows by their ids, points of a grid by their values; pure."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.planning.forecast.snapshot import ConfigurationSnapshot, PlanSnapshot

MAX_PAIRS = 40_000
"""Nearest pairs are searched for up to this number of removed x added points."""

MAX_NAMES = 6
MAX_LINES = 12
MAX_LETTERS = 80

TRIAL_SETTINGS = ("base", "data", "search", "seeds", "folds")
"""Settings that decide which trials there are."""


Configurations = tuple[ConfigurationSnapshot, ...]
Pairs = list[tuple[ConfigurationSnapshot, ConfigurationSnapshot]]


@dataclass(frozen=True)
class FieldChange:
    """A field with another value. None: it did not exist, or does not exist any more."""

    path: str
    old: Any
    new: Any

    def describe(self) -> str:
        return f"{self.path} {_shorten(_show(self.old))} -> {_shorten(_show(self.new))}"

    def to_json(self) -> dict[str, Any]:
        return {"field": self.path, "old": self.old, "new": self.new}


@dataclass(frozen=True)
class ChangedConfiguration:
    """A configuration that replaces an earlier one."""

    configuration: ConfigurationSnapshot
    changes: tuple[FieldChange, ...]


@dataclass(frozen=True)
class PlanDiff:
    """The difference of two snapshots. settings: changes outside of configurations. num_unchanged: configurations."""

    since_s: float
    added: Configurations
    removed: Configurations
    changed: tuple[ChangedConfiguration, ...]
    settings: tuple[FieldChange, ...]
    num_unchanged: int

    @property
    def is_empty(self) -> bool:
        return not (self.added or self.removed or self.changed or self.settings)

    def to_json(self) -> dict[str, Any]:
        return {
            "since_s": self.since_s,
            "added": [_name_json(one) for one in self.added],
            "removed": [_name_json(one) for one in self.removed],
            "changed": [
                _name_json(one.configuration) | {"fields": [change.to_json() for change in one.changes]} for one in self.changed
            ],
            "unchanged": self.num_unchanged,
            "settings": [change.to_json() for change in self.settings],
        }

    def describe(self, num_left: Mapping[str, int]) -> list[str]:
        """Lines for people. num_left: configuration's id -> number of its unfinished trials."""
        lines = list(self._describe_changed(num_left))
        if self.added:
            lines.append(f"added: {_list_names(self.added)}{_say_left(self.added, num_left)}")
        if self.removed:
            lines.append(f"removed: {_list_names(self.removed)}; finished trials stay, and count again if it comes back")
        of_trials = [change for change in self.settings if change.path.split(".")[0] in TRIAL_SETTINGS]
        others = [change for change in self.settings if change not in of_trials]
        lines += [change.describe() for change in of_trials]
        if others:
            lines.append(f"settings that change no trial: {'; '.join(change.describe() for change in others)}")
        return lines

    def _describe_changed(self, num_left: Mapping[str, int]) -> Iterator[str]:
        """One line per set of configurations with the same change."""
        alike: defaultdict[str, list[ConfigurationSnapshot]] = defaultdict(list)
        for changed in self.changed:
            alike["; ".join(change.describe() for change in _without_echo(changed.changes))].append(changed.configuration)
        for number, (what, found) in enumerate(alike.items()):
            if number == MAX_LINES:
                yield f"{sum(map(len, list(alike.values())[number:]))} more changed; --plan --json lists them"
                return
            is_all = len(found) == len(self.changed) + len(self.added) + self.num_unchanged > 1
            names = f"all {len(found)} configurations" if is_all else _list_names(found)
            yield f"{names} changed: {what}{_say_left(found, num_left)}"


def compare(old: PlanSnapshot, new: PlanSnapshot) -> PlanDiff:
    """Find what was added, removed and changed from ``old`` to ``new``."""
    before, after = old.configurations, new.configurations
    pairs: Pairs = []
    ways: tuple[Callable[[ConfigurationSnapshot], object], ...] = (lambda c: (c.point, _key(c)), lambda c: c.point, _key)
    for identify in ways:
        matched, before, after = _match(before, after, identify)
        pairs += matched
    nearest, before, after = _match_nearest(before, after)
    changed = [(was, now) for was, now in pairs if _key(was) != _key(now)] + nearest
    return PlanDiff(
        since_s=old.written_s or 0.0,
        added=after,
        removed=() if _is_open_ended(new) else before,
        changed=tuple(ChangedConfiguration(now, tuple(find_changes(was.fields, now.fields))) for was, now in changed),
        settings=tuple(_compare_settings(old, new)),
        num_unchanged=len(pairs) + len(nearest) - len(changed),
    )


def _key(configuration: ConfigurationSnapshot) -> tuple[str, Any]:
    """Equal keys mean equal trials, up to the sweep's seeds and folds."""
    return configuration.id, configuration.fields.get("seed")


def _is_open_ended(snapshot: PlanSnapshot) -> bool:
    return "base" in snapshot.settings


def _compare_settings(old: PlanSnapshot, new: PlanSnapshot) -> Iterator[FieldChange]:
    if _is_open_ended(old) == _is_open_ended(new):
        return find_changes(old.settings, new.settings)
    left_out = ("base", "data", "search")  # settings of an open-ended search, part of each configuration otherwise
    ours, theirs = ({k: v for k, v in snapshot.settings.items() if k not in left_out} for snapshot in (new, old))
    method = FieldChange("search.method", _method(old), _method(new))
    return itertools.chain([method], find_changes(theirs, ours))


def _method(snapshot: PlanSnapshot) -> str | None:
    search = snapshot.settings.get("search")
    return search["method"] if search else None


def _match(
    before: Configurations, after: Configurations, identify: Callable[[ConfigurationSnapshot], object]
) -> tuple[Pairs, Configurations, Configurations]:
    """Pairs with equal ``identify``, and the rest of both."""
    by_name = {identify(one): one for one in before}
    pairs: Pairs = []
    left: list[ConfigurationSnapshot] = []
    for now in after:
        was = by_name.pop(identify(now), None)
        if was is None:
            left.append(now)
        else:
            pairs.append((was, now))
    return pairs, tuple(by_name.values()), tuple(left)


def _match_nearest(before: Configurations, after: Configurations) -> tuple[Pairs, Configurations, Configurations]:
    """Pairs of points that are each other's only nearest neighbour; rows are matched only by their ids."""
    ours, theirs = ([(one, frozenset(_leaves(one.fields))) for one in found if one.row is None] for found in (after, before))
    if not ours or not theirs or len(ours) * len(theirs) > MAX_PAIRS:
        return [], before, after
    distances = [[len(leaves ^ others) for _, others in theirs] for _, leaves in ours]
    pairs: Pairs = []
    for i, row in enumerate(distances):
        j = row.index(min(row))
        column = [distances_of_other[j] for distances_of_other in distances]
        if row.count(min(row)) == 1 and column.count(min(column)) == 1 and column.index(min(column)) == i:
            pairs.append((theirs[j][0], ours[i][0]))
    taken = {id(one) for pair in pairs for one in pair}
    return pairs, tuple(c for c in before if id(c) not in taken), tuple(c for c in after if id(c) not in taken)


def _leaves(value: Any, path: str = "") -> Iterator[str]:
    """Every field with its value, to count how many differ."""
    if isinstance(value, Mapping) and value:
        for name, inner in value.items():
            yield from _leaves(inner, f"{path}.{name}")
    else:
        yield f"{path}={value!r}"


def find_changes(old: Mapping[str, Any], new: Mapping[str, Any], path: str = "") -> Iterator[FieldChange]:
    """Changed fields, by dotted path. A named object, such as a loss, changes as a whole if its name changes."""
    for name in [*old, *(name for name in new if name not in old)]:
        was, now, place = old.get(name), new.get(name), f"{path}.{name}" if path else name
        if was == now:
            continue
        if isinstance(was, Mapping) and isinstance(now, Mapping) and was.get("name") == now.get("name"):
            yield from find_changes(was, now, place)
        else:
            yield FieldChange(place, was, now)


def _show(value: Any) -> str:
    """As in a sweep file, without unset fields."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{name}: {_show(inner)}" for name, inner in value.items() if inner is not None) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_show, value)) + "]"
    if value is None or isinstance(value, bool):
        return "none" if value is None else str(value).lower()
    return f"{value:.12g}" if isinstance(value, float) else str(value)


def _without_echo(changes: Sequence[FieldChange]) -> Iterator[FieldChange]:
    """Leave out the data's fingerprint if the file asks for other data anyway."""
    others = [change for change in changes if change.path != "data.content"]
    return iter(others if any(change.path.startswith("data.") for change in others) else changes)


def _shorten(text: str) -> str:
    return text if len(text) <= MAX_LETTERS else f"{text[:MAX_LETTERS]} ..."


def _name_json(configuration: ConfigurationSnapshot) -> dict[str, Any]:
    return {"configuration": configuration.id, "name": configuration.label, "row": configuration.row}


def _list_names(configurations: Sequence[ConfigurationSnapshot]) -> str:
    names = ", ".join(one.label for one in configurations[:MAX_NAMES])
    more = len(configurations) - MAX_NAMES
    return f"{names} and {more} more" if more > 0 else names


def _say_left(configurations: Iterable[ConfigurationSnapshot], num_left: Mapping[str, int]) -> str:
    left = sum(num_left.get(one.id, 0) for one in configurations)
    return f" ({left} to train)" if left else " (already done)"
