"""When a search proposes nothing more: ``budget`` and ``stop`` in a sweep file; for searches.py."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

from optuna.trial import TrialState as OptunaState

from orchestrator.search.study import Study
from orchestrator.spec.model import SweepSpec

SAVE_S = 10.0
"""GPU time is written down this often; a kill loses no more of it."""


class Limits:
    """The budget in hours and GPU-hours, and the rule to stop by. Used by one thread.

    clock: seconds; ``budget.hours`` counts from now. GPU-hours are those of all runs of the sweep and of all its dispatchers.
    """

    def __init__(self, spec: SweepSpec, study: Study, clock: Callable[[], float]) -> None:
        self._study, self._clock, self._stop = study, clock, spec.stop
        budget = spec.budget
        self._deadline_s = clock() + budget.hours * 3600 if budget and budget.hours else math.inf
        self._gpu_s = budget.gpu_hours * 3600 if budget and budget.gpu_hours else math.inf
        self._unsaved_s = 0.0
        self._saved_at_s = clock()

    def spend(self, gpu_s: float) -> None:
        """Count GPU time that attempts of this dispatcher have taken since the last call."""
        self._unsaved_s += gpu_s
        if self._unsaved_s and self._gpu_s < math.inf and self._clock() >= self._saved_at_s + SAVE_S:
            self._save()

    def close(self) -> None:
        """Write down what has not been."""
        if self._unsaved_s and self._gpu_s < math.inf:
            self._save()

    def why_spent(self) -> str | None:
        """Which budget is used up, so that no trial may be begun any more; those that run are finished."""
        if self._clock() >= self._deadline_s:
            return "budget.hours is spent"
        if self._gpu_s < math.inf and self._study.spent_gpu_s() + self._unsaved_s >= self._gpu_s:
            return "budget.gpu_hours is spent"
        return None

    def why_stopped(self) -> str | None:
        """Why nothing new need be looked for, by ``stop``."""
        if self._stop is None:
            return None
        ended = [t for t in self._study.trials() if t.state in (OptunaState.COMPLETE, OptunaState.PRUNED) and t.ended]
        ended.sort(key=lambda trial: (trial.ended, trial.number))
        num_since = count_since_best((trial.value for trial in ended), self._stop.min_delta)
        if num_since < self._stop.no_improvement:
            return None
        delta = f" by more than {self._stop.min_delta:g}" if self._stop.min_delta else ""
        return f"stop: no improvement{delta} in the last {num_since} configurations"

    def _save(self) -> None:
        self._study.add_spent(self._unsaved_s)
        self._unsaved_s, self._saved_at_s = 0.0, self._clock()


def count_since_best(values: Iterable[float | None], min_delta: float) -> int:
    """How many values follow the last that exceeds the best before it by more than ``min_delta``; None exceeds nothing."""
    best, num_since = -math.inf, 0
    for value in values:
        is_better = value is not None and value > best + min_delta
        best, num_since = (value, 0) if is_better and value is not None else (best, num_since + 1)
    return num_since
