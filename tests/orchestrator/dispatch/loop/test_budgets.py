"""A budget of time, with a real search behind the dispatcher: what it leaves, and that the next run goes on with that."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from orchestrator.dispatch.loop.dispatcher import Outcome
from orchestrator.planning.plan import make_plan, round_of, trials_of
from orchestrator.search import StudySearch
from orchestrator.state.trial.records import TrialState
from tests.orchestrator.dispatch.loop.conftest import Bench, ScriptedJob, ScriptedLauncher, complete
from tests.orchestrator.search.conftest import FACTS, GRID, LR, build, read

HOURS = GRID + "seeds: [0, 1, 2]\nbudget: {hours: 1}\n"
SAMPLED = LR.format(method="random", trials=12).replace("12}", "12, hours: 1}") + "folds: 3\n"


class Run:
    """One run of a sweep in which every trial takes 1000 s of a clock of its own."""

    def __init__(self, bench: Bench, folder: Path, text: str) -> None:
        self.now_s = 0.0
        spec = read(folder, text)
        plan = make_plan(spec, FACTS, {})
        self.launcher = ScriptedLauncher(self._train, num_slots=1)
        self.search: StudySearch = build(spec, folder / "optuna.journal", owner=bench.owner, clock=lambda: self.now_s)
        self.outcome: Outcome = bench.run(
            [],
            self.launcher,
            search=self.search,
            trials_of=partial(trials_of, spec=spec, facts=FACTS),
            round_of=partial(round_of, spec=spec, plan=plan),
        )

    def count(self, state: TrialState) -> int:
        return sum(trial.state is state for trial in self.outcome.trials)

    def _train(self, job: ScriptedJob) -> int:
        self.now_s += 1000
        return complete(job)


@pytest.mark.parametrize("text", [HOURS, SAMPLED], ids=["the seeds of a grid", "the folds of a search"])
def test_what_waits_when_the_hours_are_over_is_left_to_the_next_run(bench: Bench, tmp_path: Path, text: str) -> None:
    """Trials of configurations that were begun too: else with three seeds a night's budget would take three nights."""
    first = Run(bench, tmp_path, text)
    assert (len(first.launcher.launched), first.now_s) == (4, 4000)
    assert first.count(TrialState.WAITING) == len(first.outcome.trials) - 4 > 0
    assert first.search.stopped_because == "budget.hours is spent"
    second = Run(bench, tmp_path, text)
    assert len(second.launcher.launched) == 4
    third = Run(bench, tmp_path, text)
    assert len(third.launcher.launched) == 4
    assert third.count(TrialState.WAITING) == 0
