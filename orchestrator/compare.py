"""Two runs, or two configurations with their seeds and folds -> whether one is better, by a paired test on the same images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Group
from rich.markup import escape
from rich.table import Table

from orchestrator.entries import EntryLoader
from orchestrator.errors import TrackingError
from orchestrator.scored import Scored, compare_class_results, compare_results, estimate, find_spread
from orchestrator.sides import load_side
from orchestrator.stats import NUM_REPLICATES, Difference, Spread

if TYPE_CHECKING:
    from orchestrator.tracking.runs import RunReader


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
