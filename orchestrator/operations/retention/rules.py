"""Decides whose checkpoints stay, by the ``keep`` rules of all sweeps and the logged ensembles."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING

from orchestrator.spec.sections import RULE_WORDS, Rule
from orchestrator.state.trial.records import TrialState

if TYPE_CHECKING:
    from orchestrator.tracking.checkpoints.retention import CheckpointRun

DEFAULT: Rule = "all"


def read_rule(text: str | None) -> Rule:
    """A rule from its text in MLflow; an unknown or missing text keeps everything."""
    if text is not None and text.isdecimal() and int(text) >= 1:
        return int(text)
    return "none" if text == RULE_WORDS[1] else DEFAULT


def choose_removable(
    runs: Iterable[CheckpointRun],
    rules: Mapping[str, Rule],
    *,
    members: Collection[str],
    sweeps_of: Mapping[str, Collection[str]],
) -> dict[str, str]:
    """Keys whose checkpoint no sweep keeps and no ensemble needs -> the rules that remove it, in words.

    rules: sweep -> rule; a sweep without one keeps everything. members: keys of ensembles' members. sweeps_of: key -> further
    sweeps that have the trial, but no run of it yet.
    """
    in_sweep: dict[str, list[CheckpointRun]] = defaultdict(list)
    sweeps: dict[str, set[str]] = defaultdict(set)
    for run in runs:
        in_sweep[run.sweep].append(run)
        sweeps[run.key].update((run.sweep, *sweeps_of.get(run.key, ())))
    kept = {key for sweep, some in in_sweep.items() for key in _choose_kept(some, rules.get(sweep, DEFAULT))}
    removable = {}
    for key, names in sorted(sweeps.items()):
        if key in kept or key in members or any(rules.get(name, DEFAULT) == DEFAULT for name in names):
            continue
        removable[key] = " and ".join(f"`keep: {{checkpoints: {rules[name]}}}` of sweep {name}" for name in sorted(names))
    return removable


def _choose_kept(runs: Collection[CheckpointRun], rule: Rule) -> set[str]:
    """The keys that one sweep keeps; of equally good trials the smaller key, as in an ensemble."""
    if rule == "all":
        return {run.key for run in runs}
    if rule == "none":
        return set()
    blocks: dict[str | None, list[tuple[float, str]]] = defaultdict(list)
    for run in runs:
        if run.state == TrialState.COMPLETE and run.miou is not None:
            blocks[run.scored].append((-run.miou, run.key))
    return {key for block in blocks.values() for _, key in sorted(set(block))[:rule]}
