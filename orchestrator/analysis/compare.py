"""Two runs, or two configurations with their seeds and folds -> whether one is better, by a paired test on the same images."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Group
from rich.markup import escape
from rich.table import Table

from orchestrator.analysis.confusions import Matrices
from orchestrator.analysis.results import (
    Scored,
    compare_class_results,
    compare_results,
    estimate,
    find_spread,
    join_trials,
    score_trial,
)
from orchestrator.analysis.stats import NUM_REPLICATES, Difference, Spread
from orchestrator.analysis.trials import EntryLoader, name_classes, strip_seed
from orchestrator.errors import TrackingError
from orchestrator.state.trial.records import TrialState
from orchestrator.tracking.reader.row import RunRow, one_run_per_key
from orchestrator.tracking.tags import Tag
from trainers.config import check_known

if TYPE_CHECKING:
    from orchestrator.tracking.reader.runs import RunReader


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
    fingerprints = tuple(run.tags.get(Tag.SCORED_FINGERPRINT, "").split(","))
    matrices = Matrices.of(*loader.load_confusions(run))
    return Scored(run.name, (matrices,), fingerprints, widening=float(run.tags.get(Tag.WIDENING, 1)))


def _find(runs: Sequence[RunRow], ensembles: Sequence[RunRow], name: str) -> list[RunRow]:
    """Trials that a name means: one, or those of one configuration, each once."""
    meant = _match_id(runs, name) if _ID.fullmatch(name) else []
    meant = meant or [run for run in runs if name in (run.name, strip_seed(run.name))]
    by_key = one_run_per_key(meant)
    if not by_key:
        raise _unknown(runs, ensembles, name)
    by_configuration: dict[str, list[RunRow]] = defaultdict(list)
    for run in by_key.values():
        by_configuration[run.tags.get(Tag.CONFIGURATION, "")].append(run)
    if len(by_configuration) > 1:
        listed = _some(f"{found[0].sweep}: {found[0].name} is {id_}" for id_, found in sorted(by_configuration.items()))
        raise TrackingError(
            f"{name!r} means {len(by_configuration)} configurations ({listed}). Give its id, or name one --sweep."
        )
    return sorted(by_key.values(), key=lambda run: run.name)


def _match_id(runs: Sequence[RunRow], name: str) -> list[RunRow]:
    """By the id of a run, then of a trial or a configuration; their beginnings where nothing is called exactly so."""
    if exact := [run for run in runs if name in (run.run_id, run.key, run.tags.get(Tag.CONFIGURATION))]:
        return exact
    by_key = [run for run in runs if run.key.startswith(name)]
    keys = sorted({run.key for run in by_key})
    of_configuration = [run for run in runs if run.tags.get(Tag.CONFIGURATION, "").startswith(name)]
    if len(keys) > 1 or (keys and of_configuration and keys != sorted({run.key for run in of_configuration})):
        others = {run.tags[Tag.CONFIGURATION] for run in of_configuration}
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


@dataclass(frozen=True)
class Comparison:
    """What tells two results apart. classes: class -> difference of its IoU. spread: of seeds; None where there is one each."""

    first: Scored
    second: Scored
    miou: Difference
    classes: dict[int, Difference]
    spread: Spread | None

    @property
    def verdict(self) -> str:
        """The answer in one sentence."""
        first, second = self.first.name, self.second.name
        low, high = self.miou.low, self.miou.high
        if not math.isfinite(self.miou.value):
            return "Nothing is scored on these images."
        if self.miou.has_evidence:
            better, worse = (first, second) if self.miou.value > 0 else (second, first)
            return (
                f"{better} is better than {worse}: the 95 % interval of the difference, {low:+.4f} to {high:+.4f}, leaves 0 out."
            )
        return (
            f"No evidence that {first} and {second} differ: the 95 % interval of the difference, {low:+.4f} to {high:+.4f}, "
            f"holds 0. A difference above {max(abs(low), abs(high)):.3f} is unlikely."
        )

    def to_json(self) -> dict[str, Any]:
        """The document of ``compare --json``."""
        return {
            "first": _describe(self.first),
            "second": _describe(self.second),
            "difference": self.miou.value,
            "ci95": [self.miou.low, self.miou.high],
            "probability_first_is_better": self.miou.probability,
            "has_evidence": self.miou.has_evidence,
            "classes": {
                self._name(c): {"difference": d.value, "ci95": [d.low, d.high], "probability_first_is_better": d.probability}
                for c, d in self.classes.items()
            },
            "seed_spread": None if self.spread is None else {"value": self.spread.value, "degrees": self.spread.degrees},
            "verdict": self.verdict,
            "method": self._method(),
        }

    def render(self) -> Group:
        """What ``compare`` prints for people."""
        table = Table(title=escape(f"{self.first.name} against {self.second.name}"))
        for title in ("", "first", "second", "difference", "95 % interval", "first is better"):
            table.add_column(title, justify="left" if title in ("", "95 % interval") else "right")
        table.add_row("mIoU", f"{self.first.miou:.4f}", f"{self.second.miou:.4f}", *_cells(self.miou), style="bold")
        ious = [result.class_ious().mean(axis=0) for result in (self.first, self.second)]
        for c, difference in self.classes.items():
            table.add_row(escape(self._name(c)), f"{ious[0][c]:.4f}", f"{ious[1][c]:.4f}", *_cells(difference))
        return Group(table, escape(self.verdict), *(escape(line) for line in (self._method(), *self._warnings())))

    def _name(self, c: int) -> str:
        return self.first.class_names.get(c, f"class {c}")

    def _method(self) -> str:
        """How the intervals were found."""
        images = f"Paired bootstrap: {NUM_REPLICATES} resamples of {len(self.first.confusions[0])} images (or groups of them)"
        if self.spread is None:
            return f"{images}, the same for both. With one seed each, what another seed would change is not in it."
        counts = " and ".join(str(len(result.samples)) for result in (self.first, self.second))
        return (
            f"{images}, the same for both; to which is added what other seeds would change, from Student's t with "
            f"{self.spread.degrees} degrees of freedom ({counts} seeds, {self.spread.value:.4f} apart)."
        )

    def _warnings(self) -> list[str]:
        left = [
            f"{name}: not compared, as it lacks a fold or was not COMPLETE."
            for name in self.first.left_out + self.second.left_out
        ]
        shared = set(self.first.keys) & set(self.second.keys)
        return left + [f"Both sides hold the same {len(shared)} trials."] * bool(shared)


def compare_runs(reader: RunReader, names: tuple[str, str], sweeps: Sequence[str] = (), *, cache: Path) -> Comparison:
    """Compare what two names mean: each a run's id, a trial's key, a configuration's id (or their beginnings), or a name.

    The name of a trial without its seed and fold means its configuration with all its seeds. Looked for in ``sweeps``, or in all.

    Raises:
        TrackingError: there is no such run or several, it is not COMPLETE, or the two were not scored on the same images.
    """
    runs, ensembles = reader.list_runs(sweeps), reader.list_ensembles(sweeps)
    loader = EntryLoader(reader, cache)
    first, second = (load_side(name, loader=loader, runs=runs, ensembles=ensembles) for name in names)
    if first.fingerprints != second.fingerprints or first.ignore_classes != second.ignore_classes:
        raise TrackingError(_explain_different(first, second))
    if len(first.confusions[0]) != len(second.confusions[0]):
        raise TrackingError(
            f"{first.name} and {second.name} cannot be compared: one keeps {len(first.confusions[0])} matrices, the other "
            f"{len(second.confusions[0])}, since an earlier version wrote the ensemble's. Run `orchestrate sweep` again."
        )
    spread = find_spread([first, second])
    return Comparison(first, second, compare_results(first, second, spread), compare_class_results(first, second), spread)


def _explain_different(first: Scored, second: Scored) -> str:
    if first.ignore_classes != second.ignore_classes:
        what = f"{first.name} leaves classes {list(first.ignore_classes)} out, {second.name} {list(second.ignore_classes)}"
    elif len(first.fingerprints) != len(second.fingerprints):
        num = [f"{len(result.fingerprints)} fold{'s' * (len(result.fingerprints) > 1)}" for result in (first, second)]
        what = f"{first.name} was scored on {num[0]}, {second.name} on {num[1]}"
    else:
        prints = [", ".join(prints or "unknown" for prints in result.fingerprints) for result in (first, second)]
        what = f"{first.name} was scored on {prints[0]}, {second.name} on {prints[1]}"
    return (
        f"{first.name} and {second.name} cannot be compared: {what}. A paired test needs the same images, labels and ignored "
        "classes: the same source, cleaning, split (`val_fraction` or `folds`, `split_seed`) and `ignore_classes`."
    )


def _describe(result: Scored) -> dict[str, Any]:
    found = estimate(result, find_spread([result]))
    ious = result.class_ious().mean(axis=0)
    return {
        "name": result.name,
        "keys": list(result.keys),
        "seeds": list(result.seeds),
        "miou": found.value,
        "ci95": [found.low, found.high],
        "mious": list(result.mious),
        "class_iou": {name: float(ious[c]) for c, name in result.class_names.items()},
        "scored_fingerprints": list(result.fingerprints),
        "left_out": list(result.left_out),
    }


def _cells(difference: Difference) -> tuple[str, str, str]:
    interval = f"{difference.low:+.4f} to {difference.high:+.4f}"
    return f"{difference.value:+.4f}", interval, f"{difference.probability:.1%}"
