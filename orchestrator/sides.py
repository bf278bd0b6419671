"""What a person calls a run or a configuration -> what it scored: one side of a comparison."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from orchestrator.entries import EntryLoader, name_classes, strip_seed
from orchestrator.errors import TrackingError
from orchestrator.matrices import Matrices
from orchestrator.scored import Scored, join_trials, score_trial
from orchestrator.tracking.labels import WIDENING
from orchestrator.trial import TrialState
from trainers.config import check_known

if TYPE_CHECKING:
    from orchestrator.tracking.rows import RunRow

_ID = re.compile(r"[0-9a-f]{4,32}")
_SHOWN = 6


def load_side(name: str, *, loader: EntryLoader, runs: Sequence[RunRow], ensembles: Sequence[RunRow]) -> Scored:
    """Find what ``name`` means among runs of trials and of ensembles, and read what it scored.

    Raises:
        TrackingError: it means nothing or several things, is not COMPLETE, or lacks folds.
    """
    named = [run for run in ensembles if name in (run.run_id, run.name)]
    if len(named) > 1:
        raise TrackingError(
            f"{name!r} is the name of {len(named)} ensembles: runs {_some(run.run_id for run in named)}. Give one."
        )
    if named:
        return _load_ensemble(loader, named[0])
    found = _find(runs, ensembles, name)
    done = [run for run in found if run.state == TrialState.COMPLETE]
    if not done:
        states = ", ".join(f"{run.name} is {run.state}" for run in found[:_SHOWN])
        raise TrackingError(f"{name!r}: {states}; only what is COMPLETE can be compared. Let its sweep finish, or retry it.")
    entries = loader.load_all(done)
    result = score_trial(entries[0]) if len(entries) == 1 else join_trials(entries)
    if result is None:
        count = entries[0].fold[1] if entries[0].fold else 1
        raise TrackingError(
            f"{name!r}: no seed of it has all {count} folds COMPLETE, but {len(entries)} trials: "
            f"{_some(entry.name for entry in entries)}. Let its sweep finish, or name two trials of one fold."
        )
    names = next((loader.load_class_names(run) for run in done if run.key == result.keys[0]), [])
    left_out = (*result.left_out, *(run.name for run in found if run not in done))
    class_names = name_classes(result.confusions[0], result.ignore_classes, names)
    return replace(result, left_out=left_out, class_names=class_names)


def _load_ensemble(loader: EntryLoader, run: RunRow) -> Scored:
    """A chosen ensemble's matrices are cross-fitted, so that it is not flattered beside what was named beforehand."""
    if run.state != TrialState.COMPLETE:
        raise TrackingError(f"{run.name} ({run.run_id}): is {run.state}; only what is COMPLETE can be compared.")
    fingerprints = tuple(run.tags.get("scored_fingerprint", "").split(","))
    matrices = Matrices.of(*loader.load_confusions(run))
    return Scored(run.name, (matrices,), fingerprints, widening=float(run.tags.get(WIDENING, 1)))


def _find(runs: Sequence[RunRow], ensembles: Sequence[RunRow], name: str) -> list[RunRow]:
    """Trials that a name means: one, or those of one configuration, each once."""
    meant = _match_id(runs, name) if _ID.fullmatch(name) else []
    meant = meant or [run for run in runs if name in (run.name, strip_seed(run.name))]
    by_key = {run.key: run for run in sorted(meant, key=lambda run: "cached_from" not in run.tags)}
    if not by_key:
        raise _unknown(runs, ensembles, name)
    by_configuration: dict[str, list[RunRow]] = defaultdict(list)
    for run in by_key.values():
        by_configuration[run.tags.get("configuration", "")].append(run)
    if len(by_configuration) > 1:
        listed = _some(f"{found[0].sweep}: {found[0].name} is {id_}" for id_, found in sorted(by_configuration.items()))
        raise TrackingError(
            f"{name!r} means {len(by_configuration)} configurations ({listed}). Give its id, or name one --sweep."
        )
    return sorted(by_key.values(), key=lambda run: run.name)


def _match_id(runs: Sequence[RunRow], name: str) -> list[RunRow]:
    """By the id of a run, then of a trial or a configuration; their beginnings where nothing is called exactly so."""
    if exact := [run for run in runs if name in (run.run_id, run.key, run.tags.get("configuration"))]:
        return exact
    by_key = [run for run in runs if run.key.startswith(name)]
    keys = sorted({run.key for run in by_key})
    of_configuration = [run for run in runs if run.tags.get("configuration", "").startswith(name)]
    if len(keys) > 1 or (keys and of_configuration and keys != sorted({run.key for run in of_configuration})):
        others = {run.tags["configuration"] for run in of_configuration}
        raise TrackingError(f"{name!r} is the beginning of several ids: {_some([*keys, *sorted(others)])}. Give more of it.")
    return by_key or of_configuration


def _unknown(runs: Sequence[RunRow], ensembles: Sequence[RunRow], name: str) -> TrackingError:
    known = sorted({strip_seed(run.name) for run in runs} | {run.name for run in ensembles})
    hint = "Give a run's id, a trial's key, a configuration's id, or a name; `orchestrate leaderboard --json` shows them."
    if not known:
        return TrackingError(f"{name!r}: there are no runs here. Run `orchestrate sweep FILE` first.")
    try:
        check_known(name, known, "run or configuration")
    except ValueError as error:
        return TrackingError(f"{error} {hint}")
    raise AssertionError(f"{name} is known")  # and would have been found


def _some(names: Iterable[str]) -> str:
    listed = list(names)
    return ", ".join(listed[:_SHOWN]) + (", ..." if len(listed) > _SHOWN else "")
