"""Whose checkpoints stay: the ``keep`` rules of all sweeps and the ensembles that were logged, against trials that have ended."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from orchestrator.spec.sections import RULE_WORDS, Rule

DEFAULT: Rule = "all"


@dataclass(frozen=True)
class Standing:
    """How a trial stands in one sweep. miou: None where it is not COMPLETE, so that it is none of the best."""

    key: str
    sweep: str
    miou: float | None
    scored: str | None
    """Fingerprint of the images, labels and classes that it was scored on."""


def write_rule(rule: Rule) -> str:
    """As it is recorded with a sweep."""
    return str(rule)


def read_rule(text: str | None) -> Rule:
    """What ``write_rule`` wrote; where nothing is recorded, or by a version that knows more, everything stays."""
    if text is not None and text.isdecimal() and int(text) >= 1:
        return int(text)
    return "none" if text == RULE_WORDS[1] else DEFAULT


def choose_removable(
    standings: Iterable[Standing],
    rules: Mapping[str, Rule],
    *,
    members: Collection[str],
    sweeps_of: Mapping[str, Collection[str]],
) -> dict[str, str]:
    """Keys whose checkpoint no sweep wants and no ensemble needs -> the rules by which they go, in words.

    rules: sweep -> its rule; one that is not there keeps everything. members: keys of members of ensembles. sweeps_of: key ->
    sweeps that have the trial without having shown it yet.
    """
    in_sweep: dict[str, list[Standing]] = defaultdict(list)
    sweeps: dict[str, set[str]] = defaultdict(set)
    for standing in standings:
        in_sweep[standing.sweep].append(standing)
        sweeps[standing.key].update((standing.sweep, *sweeps_of.get(standing.key, ())))
    kept = {key for sweep, some in in_sweep.items() for key in _choose_kept(some, rules.get(sweep, DEFAULT))}
    removable = {}
    for key, names in sorted(sweeps.items()):
        if key in kept or key in members or any(rules.get(name, DEFAULT) == DEFAULT for name in names):
            continue
        removable[key] = " and ".join(f"`keep: {{checkpoints: {rules[name]}}}` of sweep {name}" for name in sorted(names))
    return removable


def _choose_kept(standings: Collection[Standing], rule: Rule) -> set[str]:
    """The keys that one sweep wants to keep; of equals the smaller key, as in an ensemble."""
    if rule == "all":
        return {standing.key for standing in standings}
    if rule == "none":
        return set()
    blocks: dict[str | None, list[tuple[float, str]]] = defaultdict(list)
    for standing in standings:
        if standing.miou is not None:
            blocks[standing.scored].append((-standing.miou, standing.key))
    return {key for block in blocks.values() for _, key in sorted(set(block))[:rule]}
