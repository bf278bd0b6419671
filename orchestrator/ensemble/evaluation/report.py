"""The chosen ensemble and what it is worth, for people and as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

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

if TYPE_CHECKING:
    from orchestrator.ensemble.candidates import EnsembleCandidate

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
        last = self.last
        before = {} if last is None else {"gain_over_step_before": last.value, "gain_over_step_before_ci95": list(last.ci95)}
        estimate = {"k": self.k, "miou": self.miou.value, "ci95": list(self.miou.ci95)}
        return estimate | _describe(self.gain, "gain_over_best_single", "gain_ci95") | before


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
    """What people call candidates, by key, and classes. notes: what they should know, such as which candidates were left out."""

    candidates: Mapping[str, EnsembleCandidate] = field(default_factory=dict)
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
    def candidates(self) -> dict[str, EnsembleCandidate]:
        """The members whose trials are known, by key."""
        return {key: self.labels.candidates[key] for key in self.members if key in self.labels.candidates}

    @property
    def names(self) -> tuple[str, ...]:
        """The members' names for people; their keys where they have none."""
        known = self.candidates
        return tuple(known[key].name if key in known else key for key in self.members)

    @property
    def trials(self) -> dict[str, tuple[str, ...]]:
        """Member -> keys of the trials that it is made of: itself, or its folds."""
        return {key: tuple(row.key for row in candidate.rows) for key, candidate in self.candidates.items()}

    @property
    def flips(self) -> dict[str, Flips]:
        """Of the members averaged over other mirror images than they were validated with."""
        return {key: candidate.flips for key, candidate in self.candidates.items() if candidate.flips}

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
            parts += [_title("Up to k members, cross-fitted"), self._draw_steps(), self._say_steps()]
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
        known = self.candidates
        rows = [
            [str(i), key, known[key].name if key in known else "", f"{weight:.3f}", f"{alone:.4f}"]
            for i, (key, weight, alone) in enumerate(zip(self.members, self.weights, self.members_in_sample, strict=True), 1)
        ]
        for row, gain in zip(rows, self.contributions, strict=bool(self.contributions)):
            row.append(f"{gain.value:+.4f}{'' if gain.is_significant else ' ?'}")
        table = _draw(("", "member", "name", "weight", "alone", *["adds"] * bool(self.contributions)), rows)
        if self.contributions:
            doubt = "" if all(gain.is_significant for gain in self.contributions) else " (?: not significant)"
            table.caption = f"In sample. adds: to the other members{doubt}"
        return table

    def _say_worth(self) -> list[str]:
        low, high = self.ci95
        if self.gain.is_significant:
            worse = "the ensemble is significantly worse; use the single trial"
            verdict = f"positive in {self.gain.probability:.1%} of the resamples" if self.gain.low > 0 else worse
        else:
            verdict = f"no evidence of a gain; positive in {self.gain.probability:.0%} of the resamples"
        return [
            *self.labels.notes,
            f"Search: {self.search} ({self.reason}). Combined as {_COMBINED[self.mean]}.",
            f"mIoU, cross-fitted: {self.miou:.4f} (95 % CI {low:.4f} to {high:.4f})",
            f"Gain over the best single trial: {_write(self.gain)}: {verdict}.",
            f"In sample: {self.miou_in_sample:.4f}, optimistic by {self.optimism:.4f}: the members were chosen on these images; "
            f"best single trial {self.best_single_in_sample:.4f} ({escape(self.best_single)}).",
        ]

    def _draw_steps(self) -> Table:
        rows = []
        for step in self.steps:
            gains = ["", ""] if step.last is None else [_write(step.gain, 3), _write(step.last, 3)]
            rows.append([str(step.k), f"{step.miou.value:.4f}", f"{step.miou.low:.3f} to {step.miou.high:.3f}", *gains])
        return _draw(("k", "mIoU", "95 % CI", "over the best single", "over the line above"), rows)

    def _say_steps(self) -> str:
        if self.pays_up_to == 1:
            return "No step is significantly better than the one before it."
        more = "" if self.pays_up_to == self.steps[-1].k else ": the gain of further members is not significant"
        return f"Additional members improve the mIoU significantly up to k = {self.pays_up_to}{more}."

    def _draw_classes(self) -> Table:
        rows = [
            [self._name(c), f"{self.class_iou[c]:.4f}", _write(gain, 3), f"{gain.probability:.0%}"]
            for c, gain in self.class_gains.items()
        ]
        return _draw(("class", "IoU", "gain over the best single", "positive in"), rows)

    def _draw_disagreement(self) -> Table:
        shares = self.diversity.disagreement
        rows = [[str(i + 1), *("" if i == j else f"{share:.1%}" for j, share in enumerate(row))] for i, row in enumerate(shares)]
        return _draw(("", *(str(i + 1) for i in range(len(shares)))), rows)

    def _draw_stacks(self) -> Table:
        rows = [["chosen members", f"{self.miou:.4f}", _write(self.gain, 3), ""]]
        rows += [[s.name, f"{s.miou.value:.4f}", _write(s.gain, 3), _write(s.over_chosen, 3)] for s in self.stacks]
        return _draw(("combination", "mIoU", "over the best single", "over the chosen members"), rows)

    def _say_stacks(self) -> str:
        paying = ", ".join(stack.name for stack in self.stacks if stack.over_chosen.low > 0)
        if not paying:
            return "No learned combination is significantly better than the chosen members."
        return f"Significantly better than the chosen members: {paying}. `predict` uses the chosen members only."

    def _name(self, c: int) -> str:
        return self.labels.class_names.get(c, f"class {c}")


def _title(text: str) -> str:
    return f"\n[bold]{text}[/]"


def _draw(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    table = Table(header_style="dim", caption_justify="left", box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for title in titles:
        justify = "left" if title in ("member", "name", "95 % CI", "class", "combination") else "right"
        table.add_column(title, justify=justify, overflow="fold", no_wrap=title == "member")  # type: ignore[arg-type]  # rich wants literals
    for row in rows:
        table.add_row(*map(escape, row))
    return table


def _write(gain: PairedDifference, digits: int = 4) -> str:
    return f"{gain.value:+.{digits}f} ({gain.low:+.{digits}f} to {gain.high:+.{digits}f})"


def _describe(gain: PairedDifference, value: str, interval: str) -> dict[str, Any]:
    return {value: gain.value, interval: list(gain.ci95), "probability": gain.probability}
