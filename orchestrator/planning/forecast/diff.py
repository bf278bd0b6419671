"""Compares a plan with the snapshot of the last run: rows by their ids, points of a grid by their values; pure."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
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
    """A field, by its dotted path, with another value. None: it did not exist, or does not exist any more."""

    field: str
    old: Any
    new: Any

    def describe(self) -> str:
        return f"{self.field} {_shorten(_show(self.old))} -> {_shorten(_show(self.new))}"


@dataclass(frozen=True)
class PlanDiff:
    """The difference of two snapshots. settings: changes outside of configurations. num_unchanged: configurations.

    changed: configurations that replace earlier ones, and how.
    """

    since_s: float
    added: Configurations
    removed: Configurations
    changed: tuple[tuple[ConfigurationSnapshot, tuple[FieldChange, ...]], ...]
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
            "changed": [_name_json(now) | {"fields": [asdict(change) for change in changes]} for now, changes in self.changed],
            "unchanged": self.num_unchanged,
            "settings": [asdict(change) for change in self.settings],
        }

    def describe(self, num_left: Mapping[str, int]) -> list[str]:
        """Lines for people. num_left: configuration's id -> number of its unfinished trials."""
        lines = list(self._describe_changed(num_left))
        if self.added:
            lines.append(f"added: {_list_names(self.added)}{_say_left(self.added, num_left)}")
        if self.removed:
            lines.append(f"removed: {_list_names(self.removed)}; finished trials stay, and count again if it comes back")
        of_trials = [change for change in self.settings if change.field.split(".")[0] in TRIAL_SETTINGS]
        others = [change for change in self.settings if change not in of_trials]
        lines += [change.describe() for change in of_trials]
        if others:
            lines.append(f"settings that change no trial: {'; '.join(change.describe() for change in others)}")
        return lines

    def _describe_changed(self, num_left: Mapping[str, int]) -> Iterator[str]:
        """One line per set of configurations with the same change."""
        alike: defaultdict[str, list[ConfigurationSnapshot]] = defaultdict(list)
        for now, changes in self.changed:
            alike["; ".join(change.describe() for change in _without_echo(changes))].append(now)
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
    identities: tuple[Callable[[ConfigurationSnapshot], object], ...] = (lambda c: (c.point, _key(c)), lambda c: c.point, _key)
    ways: list[Callable[[Configurations, Configurations], Pairs]] = [partial(_match, identify) for identify in identities]
    for match in (*ways, _match_nearest):
        pairs += match(before, after)
        taken = {id(one) for pair in pairs for one in pair}
        before, after = (tuple(one for one in found if id(one) not in taken) for found in (before, after))
    changed = [(was, now) for was, now in pairs if _key(was) != _key(now)]
    return PlanDiff(
        since_s=old.written_s,
        added=after,
        removed=() if _is_open_ended(new) else before,
        changed=tuple((now, tuple(find_changes(was.fields, now.fields))) for was, now in changed),
        settings=tuple(_compare_settings(old, new)),
        num_unchanged=len(pairs) - len(changed),
    )


def _key(configuration: ConfigurationSnapshot) -> tuple[str, Any]:
    """Equal keys mean equal trials, up to the sweep's seeds and folds."""
    return configuration.id, configuration.fields.get("seed")


def _is_open_ended(snapshot: PlanSnapshot) -> bool:
    return "base" in snapshot.settings


def _compare_settings(old: PlanSnapshot, new: PlanSnapshot) -> Iterator[FieldChange]:
    if _is_open_ended(old) == _is_open_ended(new):
        yield from find_changes(old.settings, new.settings)
        return
    methods = ((snapshot.settings.get("search") or {}).get("method") for snapshot in (old, new))
    yield FieldChange("search.method", *methods)
    left_out = ("base", "data", "search")  # settings of an open-ended search, part of each configuration otherwise
    theirs, ours = ({k: v for k, v in snapshot.settings.items() if k not in left_out} for snapshot in (old, new))
    yield from find_changes(theirs, ours)


def _match(identify: Callable[[ConfigurationSnapshot], object], before: Configurations, after: Configurations) -> Pairs:
    """Pairs with equal ``identify``, which is unique in a plan."""
    by_identity = {identify(one): one for one in before}
    return [(by_identity[identify(now)], now) for now in after if identify(now) in by_identity]


def _match_nearest(before: Configurations, after: Configurations) -> Pairs:
    """Pairs of points that are each other's only nearest neighbour; rows are matched only by their ids."""
    ours, theirs = ([(one, frozenset(_leaves(one.fields))) for one in found if one.row is None] for found in (after, before))
    if not ours or not theirs or len(ours) * len(theirs) > MAX_PAIRS:
        return []
    distances = [[len(leaves ^ others) for _, others in theirs] for _, leaves in ours]
    pairs: Pairs = []
    for i, row in enumerate(distances):
        j = row.index(min(row))
        column = [distances_of_other[j] for distances_of_other in distances]
        if row.count(min(row)) == 1 and column.count(min(column)) == 1 and column.index(min(column)) == i:
            pairs.append((theirs[j][0], ours[i][0]))
    return pairs


def _leaves(value: Any, path: str = "") -> Iterator[str]:
    """Every field with its value, to count how many differ."""
    if isinstance(value, Mapping) and value:
        for name, inner in value.items():
            yield from _leaves(inner, f"{path}.{name}")
    else:
        yield f"{path}={value!r}"


def find_changes(old: Mapping[str, Any], new: Mapping[str, Any], path: str = "") -> Iterator[FieldChange]:
    """Changed fields below ``path``. A named object, such as a loss, changes as a whole if its name changes."""
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


def _without_echo(changes: Sequence[FieldChange]) -> Sequence[FieldChange]:
    """Leave out the data's fingerprint if the file asks for other data anyway."""
    others = [change for change in changes if change.field != "data.content"]
    return others if any(change.field.startswith("data.") for change in others) else changes


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
