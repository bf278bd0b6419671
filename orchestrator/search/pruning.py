"""Reports of running trials -> whether their configuration is pruned, by one of Optuna's pruners; for search.py.

A pruner compares configurations, of which a study has one trial each. Most pruners compare epochs: a configuration's first trial
(its first seed and fold) decides for all, because the first trials of any two share seed, fold and validation images. A step is
an epoch, counted from 1, and its value is that epoch's val/miou. Wilcoxon's pruner compares finished trials: a step is a trial,
in the order of seeds and folds, and its value is the trial's val/miou.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.pruners import BasePruner

from orchestrator.planning.configuration import Configuration, Facts
from orchestrator.planning.plan import plan_trials
from orchestrator.search.study import Study
from orchestrator.search.study_trial import identify
from orchestrator.spec.model import SweepSpec
from orchestrator.spec.sections import PrunerSpec, class_name, compares_trials
from orchestrator.state.home import Home
from orchestrator.state.trial.folder import TrialFolder
from orchestrator.state.trial.records import OBJECTIVE, TrialSpec

History = Callable[[TrialSpec], Mapping[int, float]]
"""Trial -> epoch, from 1 -> val/miou, also of epochs that it did not report to this study; empty where nothing is known."""


class Pruning:
    """Prunes configurations by what their trials report; a pruned configuration stays pruned. Used by one thread.

    Reports may be repeated, may skip epochs that ``history`` has, and may come from several dispatchers.
    """

    def __init__(self, spec: SweepSpec, facts: Facts, study: Study, history: History) -> None:
        self._spec, self._facts, self._study, self._history = spec, facts, study, history
        self._prunable: dict[str, Prunable] = {}
        self._compares_trials = spec.pruner is not None and compares_trials(spec.pruner.name)
        if spec.pruner is not None:
            study.use(pruner=build_pruner(spec.pruner))

    def add(self, configuration: Configuration) -> None:
        """Expect reports from the trials of a proposed configuration."""
        if self._spec.pruner is not None:
            trials = plan_trials(configuration, self._spec, self._facts)
            for position, trial in enumerate(trials):
                self._prunable[trial.spec.key] = Prunable(identify(configuration), position, len(trials))

    def report(self, trial: TrialSpec, epoch: int, value: float) -> bool:
        """Enter an epoch's val/miou; True: the trial's configuration is pruned."""
        prunable = self._prunable.get(trial.key)
        if prunable is None or self._study.is_pruned(prunable.identity):
            return prunable is not None
        if self._compares_trials or prunable.position > 0:
            return False
        known = self._study.steps_of(prunable.identity)
        missing = set(range(1, epoch)) - known.keys()
        steps = {e: v for e, v in self._history(trial).items() if e in missing} if missing else {}
        if epoch not in known:
            steps[epoch] = value
        return self._decide(prunable, is_worse=self._is_worse_by_epochs(prunable, trial, steps))

    def report_end(self, trial: TrialSpec, value: float) -> bool:
        """Enter the val/miou of a trial that has ended, now or earlier; True: its configuration is pruned."""
        prunable = self._prunable.get(trial.key)
        if prunable is None or self._study.is_pruned(prunable.identity):
            return prunable is not None
        if self._compares_trials:
            self._study.add_steps(prunable.identity, {prunable.position: value})
            is_last = len(self._study.steps_of(prunable.identity)) == prunable.num_trials
            return self._decide(prunable, is_worse=not is_last and self._study.is_worse(prunable.identity))
        if prunable.position > 0:
            return False
        known = self._study.steps_of(prunable.identity)
        steps = {epoch: v for epoch, v in self._history(trial).items() if epoch not in known}
        is_worse = self._is_worse_by_epochs(prunable, trial, steps)
        return self._decide(prunable, is_worse=is_worse and prunable.num_trials > 1)

    def _is_worse_by_epochs(self, prunable: Prunable, trial: TrialSpec, steps: Mapping[int, float]) -> bool:
        """Enter new epochs one by one, as if reported in time; pruning a single trial after its last epoch saves nothing."""
        for epoch in sorted(steps):
            self._study.add_steps(prunable.identity, {epoch: steps[epoch]})
            is_worse = self._study.is_worse(prunable.identity)
            if is_worse and (epoch < trial.train.epochs or prunable.num_trials > 1):
                return True
        return False

    def _decide(self, prunable: Prunable, *, is_worse: bool) -> bool:
        if is_worse:
            self._study.mark_pruned(prunable.identity)
        return is_worse


@dataclass(frozen=True)
class Prunable:
    """A trial of a configuration that may be pruned; identity: in the study. position: in the order of seeds and folds."""

    identity: str
    position: int
    num_trials: int


def build_pruner(spec: PrunerSpec) -> BasePruner:
    """Build the pruner, with the one that it wraps.

    Raises:
        ValueError, TypeError: Optuna refuses the options.
    """
    options: dict[str, Any] = dict(spec.options)
    if isinstance(options.get("wrapped_pruner"), dict):
        options["wrapped_pruner"] = build_pruner(PrunerSpec.model_validate(options["wrapped_pruner"]))
    pruner: type[BasePruner] = getattr(optuna.pruners, class_name(spec.name))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", category=optuna.exceptions.ExperimentalWarning)  # a sweep file that names one accepts it
        return pruner(**options)


def read_epochs(home: Home, trial: TrialSpec) -> Mapping[int, float]:
    """Epoch -> val/miou, from the trial's folder on this machine; of an epoch that was trained twice, the last."""
    events, _ = TrialFolder(home.trial_folder(trial.key)).events()
    return {e.epoch: e.metrics[OBJECTIVE] for e in events if e.epoch is not None and OBJECTIVE in e.metrics}
