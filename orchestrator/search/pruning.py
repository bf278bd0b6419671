"""Reports of running trials -> whether their configuration is given up; by one of Optuna's pruners, for searches.py.

A pruner compares configurations, of which a study has one trial each. Most compare epochs: there a configuration's first trial
(its first seed and fold) decides for all, since the first trials of any two share seed, fold and validation images. A step is an
epoch, counted from 1, and its value that epoch's val/miou. Wilcoxon's compares finished trials of a configuration (a step is a
trial, in the order of seeds and folds, its value the trial's) or, over images, the images that these were scored on.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, cast

import optuna
from optuna.pruners import BasePruner
from optuna.study import StudyDirection
from optuna.trial import TrialState as OptunaState

from orchestrator.planning.configuration import Configuration, Facts
from orchestrator.planning.plan import trials_of
from orchestrator.search.history import History, ImageScores
from orchestrator.search.study import Study
from orchestrator.search.study_trial import identify
from orchestrator.spec.model import SweepSpec
from orchestrator.spec.optuna_names import class_name
from orchestrator.spec.sections import PrunerSpec
from orchestrator.state.trial.records import TrialSpec


def build_pruner(spec: PrunerSpec) -> BasePruner:
    """The pruner, with the one that it wraps.

    Raises:
        ValueError, TypeError: Optuna refuses the options.
    """
    options: dict[str, Any] = dict(spec.options)
    if isinstance(options.get("wrapped_pruner"), dict):
        options["wrapped_pruner"] = build_pruner(PrunerSpec.model_validate(options["wrapped_pruner"]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", category=optuna.exceptions.ExperimentalWarning)  # whoever names one wants it
        pruner: BasePruner = getattr(optuna.pruners, class_name(spec.name))(**options)
        return pruner


IMAGES_A_TRIAL = 10_000_000
"""More than any validation set holds: tells images of one trial from those of the next."""


@dataclass(frozen=True)
class Candidate:
    """A configuration that may be given up. identity: in the study. trials: in the order of seeds and folds."""

    identity: str
    trials: tuple[TrialSpec, ...]

    def position_of(self, trial: TrialSpec) -> int:
        return next(i for i, other in enumerate(self.trials) if other.key == trial.key)


class Comparison(Protocol):
    """Whether a configuration is worse than the others, asked whenever something new is known of one of its trials."""

    def at_epoch(self, candidate: Candidate, trial: TrialSpec, *, epoch: int, value: float) -> bool: ...

    def at_end(self, candidate: Candidate, trial: TrialSpec, *, value: float) -> bool: ...


class Pruning:
    """Gives configurations up by what their trials report; once given up, they stay so. Used by one thread.

    Reports may be repeated, may leave epochs out that the trial's folder knows, and may come from several dispatchers.
    """

    def __init__(self, spec: SweepSpec, facts: Facts, study: Study, history: History) -> None:
        self._spec, self._facts, self._study = spec, facts, study
        self._candidates: dict[str, Candidate] = {}
        self._by_identity: dict[str, Candidate] = {}
        self._comparison = self._choose(history)

    def take_in(self, configuration: Configuration) -> None:
        """Note a proposed configuration, whose trials may report from now on."""
        if self._comparison is None:
            return
        trials = tuple(trials_of(configuration, self._spec, self._facts))
        candidate = Candidate(identify(configuration), trials)
        self._by_identity[candidate.identity] = candidate
        self._candidates.update((trial.key, candidate) for trial in trials)

    def report(self, trial: TrialSpec, epoch: int, value: float) -> bool:
        """An epoch's val/miou; True: nothing of the trial's configuration need be trained on."""
        candidate = self._candidates.get(trial.key)
        if candidate is None or self._comparison is None:
            return False
        return self._is_given_up(candidate) or self._decide(
            candidate, is_worse=self._comparison.at_epoch(candidate, trial, epoch=epoch, value=value)
        )

    def report_end(self, trial: TrialSpec, value: float) -> bool:
        """A trial's val/miou, now or found done; True: no other trial of its configuration need be trained."""
        candidate = self._candidates.get(trial.key)
        if candidate is None or self._comparison is None:
            return False
        return self._is_given_up(candidate) or self._decide(
            candidate, is_worse=self._comparison.at_end(candidate, trial, value=value)
        )

    def _is_given_up(self, candidate: Candidate) -> bool:
        return self._study.is_given_up(candidate.identity)

    def _decide(self, candidate: Candidate, *, is_worse: bool) -> bool:
        if is_worse:
            self._study.give_up(candidate.identity)
        return is_worse

    def _choose(self, history: History) -> Comparison | None:
        if (asked := self._spec.pruner) is None:
            return None
        pruner = build_pruner(asked)
        self._study.use(pruner=pruner)
        if class_name(asked.name) != "WilcoxonPruner":
            return EpochComparison(self._study, history)
        if asked.over == "images":
            return ImageComparison(self._study, history, pruner, self._by_identity)
        return TrialComparison(self._study)


class EpochComparison:
    """Compares epochs of the first trials."""

    def __init__(self, study: Study, history: History) -> None:
        self._study, self._history = study, history

    def at_epoch(self, candidate: Candidate, trial: TrialSpec, *, epoch: int, value: float) -> bool:
        if candidate.position_of(trial) > 0:
            return False
        known = self._study.steps_of(candidate.identity)
        missing = set(range(1, epoch)) - known.keys()
        earlier = self._history.epochs(trial) if missing else {}
        steps = {e: v for e, v in earlier.items() if e in missing} | ({} if epoch in known else {epoch: value})
        return self._judge(candidate, trial, steps)

    def at_end(self, candidate: Candidate, trial: TrialSpec, *, value: float) -> bool:
        if candidate.position_of(trial) > 0:
            return False
        known = self._study.steps_of(candidate.identity)
        steps = {e: v for e, v in self._history.epochs(trial).items() if e not in known}
        return self._judge(candidate, trial, steps) and len(candidate.trials) > 1

    def _judge(self, candidate: Candidate, trial: TrialSpec, steps: Mapping[int, float]) -> bool:
        """Enter what is new epoch by epoch, as it would have been; after the last epoch a single trial has nothing to save."""
        for epoch in sorted(steps):
            self._study.note(candidate.identity, {epoch: steps[epoch]})
            is_worse = self._study.is_worse(candidate.identity)
            if is_worse and (epoch < trial.train.epochs or len(candidate.trials) > 1):
                return True
        return False


class TrialComparison:
    """Compares finished trials: folds and seeds."""

    def __init__(self, study: Study) -> None:
        self._study = study

    def at_epoch(self, candidate: Candidate, trial: TrialSpec, *, epoch: int, value: float) -> bool:
        return False

    def at_end(self, candidate: Candidate, trial: TrialSpec, *, value: float) -> bool:
        self._study.note(candidate.identity, {candidate.position_of(trial): value})
        is_last = len(self._study.steps_of(candidate.identity)) == len(candidate.trials)
        return not is_last and self._study.is_worse(candidate.identity)


class ImageComparison:
    """Compares the images that finished trials were scored on with those of the best configuration's same trials.

    Only where both were scored on the same. Nothing is written down: the scores are in the trials' folders.
    """

    def __init__(self, study: Study, history: History, pruner: BasePruner, candidates: Mapping[str, Candidate]) -> None:
        self._study, self._history, self._pruner, self._candidates = study, history, pruner, candidates
        self._ended: dict[str, set[int]] = {}

    def at_epoch(self, candidate: Candidate, trial: TrialSpec, *, epoch: int, value: float) -> bool:
        return False

    def at_end(self, candidate: Candidate, trial: TrialSpec, *, value: float) -> bool:
        ended = self._ended.setdefault(candidate.identity, set())
        ended.add(candidate.position_of(trial))
        best = self._find_best()
        if best is None or best is candidate or len(ended) == len(candidate.trials):
            return False
        mine: dict[int, float] = {}
        theirs: dict[int, float] = {}
        for position in sorted(ended):
            pair = (self._history.images(candidate.trials[position]), self._history.images(best.trials[position]))
            for image, (my_score, their_score) in _pair_images(*pair):
                mine[position * IMAGES_A_TRIAL + image] = my_score
                theirs[position * IMAGES_A_TRIAL + image] = their_score
        return is_worse_than(self._pruner, mine, theirs)

    def _find_best(self) -> Candidate | None:
        complete = [t for t in self._study.trials() if t.value is not None and t.identity in self._candidates]
        best = max(complete, key=lambda trial: trial.value or 0.0, default=None)
        return None if best is None else self._candidates[best.identity]


def _pair_images(first: ImageScores | None, second: ImageScores | None) -> Iterator[tuple[int, tuple[float, float]]]:
    """Images with a score in both, where both were scored on the same."""
    if first is None or second is None or first.scored != second.scored:
        return
    for image, pair in enumerate(zip(first.values, second.values, strict=True)):
        if all(map(math.isfinite, pair)):
            yield image, pair


@dataclass(frozen=True)
class _BestAlone:
    """What Wilcoxon's pruner asks of a study."""

    best_trial: optuna.trial.FrozenTrial
    direction: StudyDirection = StudyDirection.MAXIMIZE


def is_worse_than(pruner: BasePruner, mine: Mapping[int, float], theirs: Mapping[int, float]) -> bool:
    """Whether Wilcoxon's pruner tells scores ``mine`` from ``theirs`` of the best, at the same steps."""
    if not mine:
        return False
    best = optuna.trial.create_trial(state=OptunaState.COMPLETE, value=0.0, intermediate_values=dict(theirs))
    running = optuna.trial.create_trial(state=OptunaState.RUNNING, intermediate_values=dict(mine))
    return pruner.prune(cast(optuna.Study, _BestAlone(best)), running)
