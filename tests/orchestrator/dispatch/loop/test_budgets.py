"""A time budget with a real search: the next run resumes what it leaves."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.dispatch.loop.ports import SweepOutcome
from orchestrator.search import StudySearch
from orchestrator.state.trial.records import TrialState
from tests.orchestrator.dispatch.loop.conftest import Bench, ScriptedJob, ScriptedLauncher, complete
from tests.orchestrator.search.conftest import GRID, LR, build, read

HOURS = GRID + "seeds: [0, 1, 2]\nbudget: {hours: 1}\n"
SAMPLED = LR.format(method="random", trials=12).replace("12}", "12, hours: 1}") + "folds: 3\n"


class Run:
    """One run of a sweep in which every trial takes 1000 s of a simulated clock."""

    def __init__(self, bench: Bench, folder: Path, text: str) -> None:
        self.now_s = 0.0
        spec = read(folder, text)
        self.launcher = ScriptedLauncher(self._train, num_slots=1)
        self.search: StudySearch = build(spec, folder / "optuna.journal", owner=bench.owner, clock=lambda: self.now_s)
        self.outcome: SweepOutcome = bench.run(
            [],
            self.launcher,
            search=self.search,
        )

    def count(self, state: TrialState) -> int:
        return sum(trial.state is state for trial in self.outcome.trials)

    def _train(self, job: ScriptedJob) -> int:
        self.now_s += 1000
        return complete(job)


@pytest.mark.parametrize("text", [HOURS, SAMPLED], ids=["the seeds of a grid", "the folds of a search"])
def test_what_waits_when_the_hours_are_over_is_left_to_the_next_run(bench: Bench, tmp_path: Path, text: str) -> None:
    """Also trials of configurations that have begun: otherwise three seeds would take three nights."""
    first = Run(bench, tmp_path, text)
    assert (len(first.launcher.launched), first.now_s) == (4, 4000)
    assert first.count(TrialState.WAITING) == len(first.outcome.trials) - 4 > 0
    assert first.search.stopped_because == "budget.hours is spent"
    second = Run(bench, tmp_path, text)
    assert len(second.launcher.launched) == 4
    third = Run(bench, tmp_path, text)
    assert len(third.launcher.launched) == 4
    assert third.count(TrialState.WAITING) == 0
