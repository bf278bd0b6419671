"""Two runs, or two configurations with their seeds and folds -> whether one is better, by a paired test on the same images."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Group
from rich.markup import escape
from rich.table import Table

from orchestrator.analysis.cache import ValueCache
from orchestrator.analysis.results import (
    Result,
    compare_class_results,
    compare_results,
    estimate,
    join_configurations,
    join_trials,
    pool_spread_of,
    score_ensemble,
    score_trial,
)
from orchestrator.analysis.stats import NUM_REPLICATES, PairedDifference, SeedSpread
from orchestrator.analysis.trials import TrialLoader, group_by, name_classes, strip_seed
from orchestrator.errors import TrackingError
from orchestrator.state.trial.records import TrialState
from orchestrator.tracking.reader.row import RunRow, one_run_per_key
from orchestrator.tracking.tags import Tag
from trainers.config import describe_unknown

if TYPE_CHECKING:
    from orchestrator.tracking.reader.runs import RunReader


_ID = re.compile(r"[0-9a-f]{4,32}")
_SHOWN = 6


@dataclass(frozen=True)
class Comparison:
    """How two results differ. classes: class -> difference of its IoU. spread: between seeds; None where seeds are left aside."""

    first: Result
    second: Result
    miou: PairedDifference
    classes: dict[int, PairedDifference]
    spread: SeedSpread | None

    @property
    def verdict(self) -> str:
        """The answer in one sentence."""
        first, second = self.first.name, self.second.name
        low, high = self.miou.ci95
        interval = f"the 95 % CI of the difference, {low:+.4f} to {high:+.4f},"
        if not math.isfinite(self.miou.value):
            return "Nothing is scored on these images."
        if self.miou.is_significant:
            better, worse = (first, second) if self.miou.value > 0 else (second, first)
            return f"{better} is better than {worse}: {interval} excludes 0."
        return (
            f"No evidence of a difference between {first} and {second}: {interval} includes 0. "
            f"A difference above {max(abs(low), abs(high)):.3f} is unlikely."
        )

    def to_json(self) -> dict[str, Any]:
        """The document of ``compare --json``."""
        return {
            "first": self._describe(self.first),
            "second": self._describe(self.second),
            "difference": self.miou.value,
            "ci95": list(self.miou.ci95),
            "probability_first_is_better": self.miou.probability,
            "is_significant": self.miou.is_significant,
            "classes": {
                self._name(c): {"difference": d.value, "ci95": list(d.ci95), "probability_first_is_better": d.probability}
                for c, d in self.classes.items()
            },
            "seed_spread": None if self.spread is None else asdict(self.spread),
            "verdict": self.verdict,
            "method": self._method(),
        }

    def render(self) -> Group:
        """What ``compare`` prints for people."""
        table = Table(title=escape(f"{self.first.name} against {self.second.name}"))
        for title in ("", "first", "second", "difference", "95 % CI", "first is better"):
            table.add_column(title, justify="left" if title in ("", "95 % CI") else "right")
        table.add_row("mIoU", f"{self.first.miou:.4f}", f"{self.second.miou:.4f}", *_cells(self.miou), style="bold")
        ious = [result.class_ious().mean(axis=0) for result in (self.first, self.second)]
        for c, difference in self.classes.items():
            table.add_row(escape(self._name(c)), f"{ious[0][c]:.4f}", f"{ious[1][c]:.4f}", *_cells(difference))
        return Group(table, escape(self.verdict), *(escape(line) for line in (self._method(), *self._warnings())))

    def _name(self, c: int) -> str:
        return self.first.class_names.get(c, f"class {c}")

    def _describe(self, result: Result) -> dict[str, Any]:
        ious = result.class_ious().mean(axis=0)
        return {
            "name": result.name,
            "keys": list(result.keys),
            "seeds": list(result.seeds),
            "miou": result.miou,
            "ci95": list(estimate(result, self.spread).ci95),
            "mious": list(result.mious),
            "class_iou": {name: float(ious[c]) for c, name in result.class_names.items()},
            "scored_fingerprints": list(result.fingerprints),
            "left_out": list(result.left_out),
        }

    def _method(self) -> str:
        """How the CIs were computed."""
        images = f"Paired bootstrap: {NUM_REPLICATES} resamples of {len(self.first.confusions[0])} images (or groups of them)"
        if self.spread is None:
            return f"{images}. The variation between seeds is not included."
        counts = " and ".join(str(len(result.samples)) for result in (self.first, self.second))
        return (
            f"{images}, plus the variation between seeds: Student's t with {self.spread.degrees} degrees of freedom, standard "
            f"deviation {self.spread.value:.4f} pooled over the sweep's configurations, {counts} seeds."
        )

    def _warnings(self) -> list[str]:
        left = [
            f"{name}: left out, as it lacks a fold or is not COMPLETE." for name in self.first.left_out + self.second.left_out
        ]
        shared = set(self.first.keys) & set(self.second.keys)
        return left + [f"Both sides hold the same {len(shared)} trials."] * bool(shared)


@dataclass(frozen=True)
class _Side:
    """The runs that a name means: an ensemble's, one trial's, or those of one configuration."""

    name: str
    runs: tuple[RunRow, ...]
    is_ensemble: bool = False

    @property
    def is_configuration(self) -> bool:
        """Whether the name means all seeds, although there may be just one."""
        run = self.runs[0]
        is_trial = self.name in (run.run_id, run.name) or run.key.startswith(self.name)
        return not self.is_ensemble and (len(self.runs) > 1 or not is_trial or self.name == strip_seed(run.name))


def compare_runs(reader: RunReader, names: tuple[str, str], sweeps: Sequence[str] = (), *, cache: Path) -> Comparison:
    """Compare what two names mean: each a run's id, a trial's key, a configuration's id (or their beginnings), or a name.

    A trial's name without its seed and fold means its configuration with all seeds. Names are looked up in ``sweeps``, or in all.
    Where a configuration is compared, the spread of seeds is that of all configurations of the sweeps concerned.

    Raises:
        TrackingError: there is no such run or several, it is not COMPLETE, or the two were not scored on the same images.
    """
    runs, ensembles = reader.list_runs(sweeps), reader.list_ensembles(sweeps)
    sides = [_find_side(name, runs, ensembles) for name in names]
    concerned = sorted({run.sweep for side in sides for run in side.runs})
    values = ValueCache(cache / "figures", concerned, place=reader.location.uri)
    loader = TrialLoader(reader, cache, values)
    first, second = (_load(side, loader) for side in sides)
    _check_comparable(first, second)
    spread = None
    if any(side.is_configuration for side in sides):
        trials = loader.load_all(_list_with_seeds(run for run in runs if run.sweep in concerned))
        spread = pool_spread_of(join_configurations(trials), first.fingerprints)
    miou, classes = compare_results(first, second, spread), compare_class_results(first, second)
    values.save(keep_unused=True)
    return Comparison(first, second, miou, classes, spread)


def _list_with_seeds(runs: Iterable[RunRow]) -> list[RunRow]:
    """The finished runs of configurations with several seeds: only these have a spread."""
    done = (run for run in runs if run.state == TrialState.COMPLETE)
    by_configuration = group_by(done, lambda run: run.tags.get(Tag.CONFIGURATION, run.key))
    return [run for found in by_configuration.values() if len({one.tags.get(Tag.SEED) for one in found}) > 1 for run in found]


def _find_side(name: str, runs: Sequence[RunRow], ensembles: Sequence[RunRow]) -> _Side:
    named = [run for run in ensembles if name in (run.run_id, run.name)]
    if len(named) > 1:
        raise TrackingError(
            f"{name!r} is the name of {len(named)} ensembles: runs {_some(run.run_id for run in named)}. Give one."
        )
    side = _Side(name, tuple(named or _find_trials(name, runs, ensembles)), is_ensemble=bool(named))
    if all(run.state != TrialState.COMPLETE for run in side.runs):
        states = ", ".join(f"{run.name} is {run.state}" for run in side.runs[:_SHOWN])
        raise TrackingError(f"{name!r}: {states}; only what is COMPLETE can be compared. Let its sweep finish, or retry it.")
    return side


def _load(side: _Side, loader: TrialLoader) -> Result:
    """Read what one side scored."""
    if side.is_ensemble:
        return score_ensemble(side.runs[0], loader)
    done = [run for run in side.runs if run.state == TrialState.COMPLETE]
    trials = loader.load_all(done)
    result = score_trial(trials[0]) if len(trials) == 1 else join_trials(trials)
    if result is None:
        count = trials[0].fold[1] if trials[0].fold else 1
        raise TrackingError(
            f"{side.name!r}: no seed of it has all {count} folds COMPLETE, but {len(trials)} trials: "
            f"{_some(trial.name for trial in trials)}. Let its sweep finish, or name two trials of one fold."
        )
    names = next((loader.load_class_names(run) for run in done if run.key == result.keys[0]), [])
    left_out = (*result.left_out, *(run.name for run in side.runs if run not in done))
    class_names = name_classes(result.confusions[0], result.ignore_classes, names)
    return replace(result, left_out=left_out, class_names=class_names)


def _find_trials(name: str, runs: Sequence[RunRow], ensembles: Sequence[RunRow]) -> list[RunRow]:
    """Trials that a name means: one, or those of one configuration, each once."""
    meant = _match_id(runs, name) if _ID.fullmatch(name) else []
    meant = meant or [run for run in runs if name in (run.name, strip_seed(run.name))]
    by_key = one_run_per_key(meant)
    if not by_key:
        raise _unknown(runs, ensembles, name)
    by_configuration = group_by(by_key.values(), lambda run: run.tags.get(Tag.CONFIGURATION, ""))
    if len(by_configuration) > 1:
        listed = _some(f"{found[0].sweep}: {found[0].name} is {id_}" for id_, found in sorted(by_configuration.items()))
        raise TrackingError(
            f"{name!r} means {len(by_configuration)} configurations ({listed}). Give its id, or name one --sweep."
        )
    return sorted(by_key.values(), key=lambda run: run.name)


def _match_id(runs: Sequence[RunRow], name: str) -> list[RunRow]:
    """By the id of a run, then of a trial or a configuration; else by the beginning of one."""
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
    return TrackingError(f"{describe_unknown(name, known, 'run or configuration')} {hint}")


def _some(names: Iterable[str]) -> str:
    listed = list(names)
    return ", ".join(listed[:_SHOWN]) + (", ..." if len(listed) > _SHOWN else "")


def _check_comparable(first: Result, second: Result) -> None:
    if first.ignore_classes != second.ignore_classes:
        what = f"{first.name} ignores classes {list(first.ignore_classes)}, {second.name} {list(second.ignore_classes)}"
    elif len(first.fingerprints) != len(second.fingerprints):
        num = [f"{len(result.fingerprints)} fold{'s' * (len(result.fingerprints) > 1)}" for result in (first, second)]
        what = f"{first.name} was scored on {num[0]}, {second.name} on {num[1]}"
    elif first.fingerprints != second.fingerprints:
        prints = [", ".join(prints or "unknown" for prints in result.fingerprints) for result in (first, second)]
        what = f"{first.name} was scored on {prints[0]}, {second.name} on {prints[1]}"
    elif len(first.confusions[0]) != len(second.confusions[0]):
        raise TrackingError(
            f"{first.name} and {second.name} cannot be compared: one stores {len(first.confusions[0])} matrices, the other "
            f"{len(second.confusions[0])}, since an earlier version wrote the ensemble's. Run `orchestrate sweep` again."
        )
    else:
        return
    raise TrackingError(
        f"{first.name} and {second.name} cannot be compared: {what}. A paired test needs the same images, labels and ignored "
        "classes: the same source, cleaning, split (`val_fraction` or `folds`, `split_seed`) and `ignore_classes`."
    )


def _cells(difference: PairedDifference) -> tuple[str, str, str]:
    low, high = difference.ci95
    return f"{difference.value:+.4f}", f"{low:+.4f} to {high:+.4f}", f"{difference.probability:.1%}"
