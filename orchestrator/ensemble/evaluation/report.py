"""The chosen ensemble and what it is worth, for people and as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Group
from rich.markup import escape
from rich.table import Table

from orchestrator.analysis.stats import MetricEstimate, PairedDifference
from orchestrator.ensemble.evaluation.diversity import Diversity
from orchestrator.ensemble.selection.strategies import SearchName
from trainers.config import Flips
from trainers.prediction.means import Mean

_DRAWN = 8
"""Up to so many members, their disagreement is printed in pairs; the JSON always has it."""

_COMBINED: dict[Mean, str] = {
    "arithmetic": "the mean of the probabilities",
    "geometric": "the geometric mean of the probabilities",
    "vote": "votes, the lowest class of equals",
}


@dataclass(frozen=True)
class TrajectoryStep:
    """Up to ``k`` members, cross-fitted. gain: over the best single candidate; last: over the step before."""

    k: int
    miou: MetricEstimate
    gain: PairedDifference
    last: PairedDifference | None

    def to_json(self) -> dict[str, Any]:
        last = {} if self.last is None else _describe(self.last, "gain_over_step_before", "gain_over_step_before_ci95")
        estimate = {"k": self.k, "miou": self.miou.value, "ci95": list(self.miou.ci95)}
        return estimate | _describe(self.gain, "gain_over_best_single", "gain_ci95") | last


@dataclass(frozen=True)
class LearnedCombination:
    """A learned combination, cross-fitted like the chosen members."""

    name: str
    miou: MetricEstimate
    gain: PairedDifference
    """Over the best single candidate."""
    over_chosen: PairedDifference
    """Over the chosen members."""

    def to_json(self) -> dict[str, Any]:
        estimate = {"name": self.name, "miou": self.miou.value, "ci95": list(self.miou.ci95)}
        over = {"gain_over_chosen": self.over_chosen.value, "gain_over_chosen_ci95": list(self.over_chosen.ci95)}
        return estimate | _describe(self.gain, "gain_over_best_single", "gain_ci95") | over


@dataclass(frozen=True)
class CandidateLabels:
    """What people call candidates and classes; by the candidate's key.

    trials: keys of the trials that a candidate is made of. flips: of candidates averaged over other mirror images than they were
    validated with. notes: what people should know, such as which candidates were left out.
    """

    names: Mapping[str, str] = field(default_factory=dict)
    trials: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    flips: Mapping[str, Flips] = field(default_factory=dict)
    class_names: Mapping[int, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


NO_LABELS = CandidateLabels()


@dataclass(frozen=True)
class EnsembleReport:
    """The chosen members and what the choice is worth. Estimates have 95 % CIs over images."""

    members: tuple[str, ...]
    """Keys, in the order in which they were chosen."""
    weights: tuple[float, ...]
    miou_in_sample: float
    """On the images that the members were chosen on: optimistic."""
    cross_fitted: MetricEstimate
    """Each part of the images scored by members chosen on the other parts."""
    gain: PairedDifference
    """Cross-fitted, over the best single candidate, which is chosen in the same way. The CI is widened for dependent choices."""
    trajectory: tuple[float, ...]
    """In sample, of the first 1, 2, ... members of the greedy search."""
    steps: tuple[TrajectoryStep, ...]
    """Cross-fitted, of 1, 2, ... members at most."""
    members_in_sample: tuple[float, ...]
    """Of each member alone."""
    contributions: tuple[PairedDifference, ...]
    """In sample, what each member adds to the others; empty for a single member."""
    diversity: Diversity
    class_gains: Mapping[int, PairedDifference]
    """Class -> cross-fitted gain in its IoU."""
    class_iou: Mapping[int, float]
    """Cross-fitted, of each class that has one."""
    best_single: str
    """Key of the best candidate in sample."""
    best_single_in_sample: float
    num_candidates: int
    num_images: int
    search: SearchName
    """The search that ran; never auto."""
    reason: str
    """Why that search."""
    confusions: NDArray[np.integer] = field(compare=False, repr=False)
    """(G, C, C), cross-fitted, of images or groups of them."""
    widening: float = 1
    """Factor by which CIs of cross-fitted differences are widened."""
    mean: Mean = "arithmetic"
    """How members are combined."""
    stacks: tuple[LearnedCombination, ...] = ()
    """Learned combinations, if they were asked for."""
    labels: CandidateLabels = NO_LABELS
    run_id: str | None = None

    @property
    def miou(self) -> float:
        """Cross-fitted."""
        return self.cross_fitted.value

    @property
    def ci95(self) -> tuple[float, float]:
        return self.cross_fitted.ci95

    @property
    def names(self) -> tuple[str, ...]:
        """The members' names for people; their keys where they have none."""
        return tuple(self.labels.names.get(key, key) for key in self.members)

    @property
    def trials(self) -> dict[str, tuple[str, ...]]:
        """Member -> keys of the trials that it is made of: itself, or its folds."""
        return {key: self.labels.trials[key] for key in self.members if key in self.labels.trials}

    @property
    def flips(self) -> dict[str, Flips]:
        """Of the members averaged over other mirror images than they were validated with."""
        return {key: self.labels.flips[key] for key in self.members if key in self.labels.flips}

    @property
    def optimism(self) -> float:
        """By how much choosing and scoring on the same images overestimates the mIoU."""
        return self.miou_in_sample - self.miou

    @property
    def pays_up_to(self) -> int:
        """The last step that is significantly better than the one before; 1 where none is."""
        return max((step.k for step in self.steps if step.last is not None and step.last.low > 0), default=1)

    def to_json(self) -> dict[str, Any]:
        """The document of ``best-ensemble --json``."""
        return {
            "members": list(self.members),
            "names": list(self.names),
            "trials": {member: list(keys) for member, keys in self.trials.items()},
            "flips": [self.flips.get(member) for member in self.members],
            "weights": list(self.weights),
            "search": self.search,
            "mean": self.mean,
            "miou_in_sample": self.miou_in_sample,
            "miou": self.miou,
            "ci95": list(self.ci95),
            "gain_over_best_single": self.gain.value,
            "gain_ci95": list(self.gain.ci95),
            "gain_probability": self.gain.probability,
            "optimism": self.optimism,
            "trajectory": list(self.trajectory),
            "trajectory_cross_fitted": [step.to_json() for step in self.steps],
            "pays_up_to": self.pays_up_to,
            "class_gains": {self._name(c): _describe(gain, "gain", "ci95") for c, gain in self.class_gains.items()},
            "contributions": [_describe(gain, "gain", "ci95") for gain in self.contributions],
            "disagreement": [list(row) for row in self.diversity.disagreement],
            "oracle_miou": self.diversity.oracle_miou,
            "best_single": self.best_single,
            "best_single_in_sample": self.best_single_in_sample,
            "stacking": [stack.to_json() for stack in self.stacks],
            "widening": self.widening,
            "num_candidates": self.num_candidates,
            "num_images": self.num_images,
            "run_id": self.run_id,
        }

    def render(self) -> Group:
        """What ``best-ensemble`` prints for people."""
        what = f"Best ensemble: {len(self.members)} of {self.num_candidates} candidates, {self.num_images} images"
        parts: list[str | Table] = [_title(what), self._draw_members(), *self._say_worth()]
        if len(self.steps) > 1:
            parts += [_title("Up to k members, cross-fitted"), self._draw_steps(), *self._say_steps()]
        if len(self.members) > 1:
            parts += [_title("Each class, cross-fitted"), self._draw_classes()]
            if len(self.members) <= _DRAWN:
                parts += [_title("Share of pixels at which two members disagree"), self._draw_disagreement()]
            parts.append(
                f"\nMembers disagree at {self.diversity.mean:.1%} of the pixels (mean over pairs); taking the right one at each "
                f"pixel would score {self.diversity.oracle_miou:.4f} in sample."
            )
        if self.stacks:
            parts += [_title("Learned combinations, cross-fitted"), self._draw_stacks(), self._say_stacks()]
        return Group(*parts)

    def _draw_members(self) -> Table:
        table = _start_table()
        _add_columns(table, "", "member", "name", "weight", "alone", *["adds"] * bool(self.contributions))
        for i, (key, weight) in enumerate(zip(self.members, self.weights, strict=True)):
            cells = [str(i + 1), escape(key), escape(self.labels.names.get(key, "")), f"{weight:.3f}"]
            cells.append(f"{self.members_in_sample[i]:.4f}")
            cells += [f"{gain.value:+.4f}{'' if gain.is_significant else ' ?'}" for gain in self.contributions[i : i + 1]]
            table.add_row(*cells)
        if self.contributions:
            table.caption = "In sample. adds: to the other members (?: not significant)"
        return table

    def _draw_disagreement(self) -> Table:
        table = _start_table()
        numbered = range(len(self.members))
        _add_columns(table, "", *(str(i + 1) for i in numbered))
        for i in numbered:
            table.add_row(str(i + 1), *("" if i == j else f"{self.diversity.disagreement[i][j]:.1%}" for j in numbered))
        return table

    def _say_worth(self) -> list[str]:
        low, high = self.ci95
        return [
            *self.labels.notes,
            f"Search: {self.search} ({self.reason}). Combined as {_COMBINED[self.mean]}.",
            f"mIoU, cross-fitted: {self.miou:.4f} (95 % CI {low:.4f} to {high:.4f})",
            f"Gain over the best single trial: {_write(self.gain)}: {self._verdict()}.",
            f"In sample: {self.miou_in_sample:.4f}, optimistic by {self.optimism:.4f}: the members were chosen on these images; "
            f"best single trial {self.best_single_in_sample:.4f} ({escape(self.best_single)}).",
        ]

    def _draw_steps(self) -> Table:
        table = _start_table()
        _add_columns(table, "k", "mIoU", "95 % CI", "over the best single", "over the line above")
        for step in self.steps:
            gains = ["" if step.last is None else _write(gain, 3) for gain in (step.gain, step.last) if gain is not None]
            table.add_row(str(step.k), f"{step.miou.value:.4f}", f"{step.miou.low:.3f} to {step.miou.high:.3f}", *gains)
        return table

    def _say_steps(self) -> list[str]:
        if self.pays_up_to == 1:
            return ["No step is significantly better than the one before it."]
        more = "" if self.pays_up_to == self.steps[-1].k else ": the gain of further members is not significant"
        return [f"More members pay up to k = {self.pays_up_to}{more}."]

    def _draw_classes(self) -> Table:
        table = _start_table()
        _add_columns(table, "class", "IoU", "gain over the best single", "positive in")
        for c, gain in self.class_gains.items():
            table.add_row(escape(self._name(c)), f"{self.class_iou[c]:.4f}", _write(gain, 3), f"{gain.probability:.0%}")
        return table

    def _draw_stacks(self) -> Table:
        table = _start_table()
        _add_columns(table, "combination", "mIoU", "over the best single", "over the chosen members")
        table.add_row("chosen members", f"{self.miou:.4f}", _write(self.gain, 3), "")
        for stack in self.stacks:
            table.add_row(stack.name, f"{stack.miou.value:.4f}", _write(stack.gain, 3), _write(stack.over_chosen, 3))
        return table

    def _say_stacks(self) -> str:
        paying = [stack.name for stack in self.stacks if stack.over_chosen.low > 0]
        if paying:
            return (
                f"Significantly better than the chosen members: {', '.join(paying)}. `predict` supports only the chosen members."
            )
        return "No learned combination is significantly better than the chosen members."

    def _verdict(self) -> str:
        if self.gain.low > 0:
            return f"positive in {self.gain.probability:.1%} of the resamples"
        if self.gain.high < 0:
            return "the ensemble is significantly worse; use the single trial"
        return f"no evidence of a gain; positive in {self.gain.probability:.0%} of the resamples"

    def _name(self, c: int) -> str:
        return self.labels.class_names.get(c, f"class {c}")


def _title(text: str) -> str:
    return f"\n[bold]{text}[/]"


def _start_table() -> Table:
    return Table(header_style="dim", caption_justify="left", box=None, padding=(0, 2, 0, 0), pad_edge=False)


def _add_columns(table: Table, *titles: str) -> None:
    texts = ("member", "name", "95 % CI", "class", "combination")
    for title in titles:
        justify = "left" if title in texts else "right"
        table.add_column(title, justify=justify, overflow="fold", no_wrap=title == "member")  # type: ignore[arg-type]  # rich wants literals


def _write(gain: PairedDifference, digits: int = 4) -> str:
    return f"{gain.value:+.{digits}f} ({gain.low:+.{digits}f} to {gain.high:+.{digits}f})"


def _describe(gain: PairedDifference, value: str, interval: str) -> dict[str, Any]:
    return {value: gain.value, interval: list(gain.ci95), "probability": gain.probability}
