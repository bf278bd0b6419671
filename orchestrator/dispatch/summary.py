"""What `orchestrate sweep` prints: the plan and the results, for people and as JSON."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.console import Group
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from orchestrator.analysis.trials import describe_config
from orchestrator.dispatch.loop.ports import SweepOutcome, TrialOutcome
from orchestrator.dispatch.progress import STATE_COLORS
from orchestrator.ensemble.fixed import EnsembleOutcome, EnsembleState
from orchestrator.planning.forecast.outlook import Outlook
from orchestrator.planning.plan import Plan, row_of
from orchestrator.spec import SweepSpec
from orchestrator.state.trial.records import TrialState


@dataclass(frozen=True)
class SweepReport:
    """What ``orchestrate sweep`` prints at the end.

    run_ids: key of a trial, or title of an ensemble -> its run in MLflow. note: why the search ended early.
    """

    sweep: str
    outcome: SweepOutcome
    ensembles: tuple[EnsembleOutcome, ...] = ()
    run_ids: Mapping[str, str | None] = field(default_factory=dict)
    note: str | None = None

    @property
    def exit_code(self) -> int:
        """0 done, 1 some trials failed or could not start, 130 interrupted."""
        if self.outcome.interrupted:
            return 130
        return int(self.outcome.halted is not None or self._has_failures)

    @property
    def _has_failures(self) -> bool:
        return any(trial.state is TrialState.FAILED for trial in self.outcome.trials)

    def to_json(self) -> dict[str, Any]:
        return {
            "sweep": self.sweep,
            "wall_s": round(self.outcome.wall_s, 3),
            "trials": [_trial_json(trial, self.run_ids.get(trial.spec.key)) for trial in self.outcome.trials],
            "ensembles": [e.to_json_with_result(self.run_ids.get(e.planned.title)) for e in self.ensembles],
            "stopped_because": self.note,
            "halted": self.outcome.halted,
        }

    def render(self) -> Group:
        lines = [f"{self.sweep}: {count_states(self.outcome.trials)} in {self.outcome.wall_s:.0f} s"]
        lines += [line for line in (self.note, self.outcome.halted) if line]
        if self.outcome.interrupted:
            lines.append("Interrupted; the same command resumes it.")
        elif self._has_failures:
            lines.append(
                "Why trials failed: see above, or log.txt in their folders. `orchestrate retry` schedules them to run again."
            )
        lines += [_describe_ensemble(ensemble) for ensemble in self.ensembles]
        lines.append(
            f"Table: orchestrate report {self.sweep}    Ranking: orchestrate leaderboard {self.sweep}    "
            f"Ensemble: orchestrate best-ensemble {self.sweep} --k 4"
        )
        return Group(*(Text(line) for line in lines))


def count_states(trials: Iterable[TrialOutcome]) -> str:
    """For people: ``3 complete, 1 failed``."""
    counts = Counter(trial.state for trial in trials)
    return ", ".join(f"{count} {state.lower()}" for state, count in counts.items()) or "no trials"


@dataclass(frozen=True)
class PlanReport:
    """What ``orchestrate sweep --plan`` prints."""

    spec: SweepSpec
    plan: Plan
    ensembles: tuple[EnsembleOutcome, ...] = ()
    outlook: Outlook | None = None

    def to_json(self) -> dict[str, Any]:
        outlook = self.outlook.to_json() if self.outlook else {}
        durations_s = self.outlook.durations_s if self.outlook else {}
        return {
            "sweep": self.plan.sweep,
            "open_ended": self.plan.open_ended,
            "data": [
                {
                    "source": data.source,
                    "fingerprint": data.fingerprint,
                    "num_images": data.num_images,
                    "num_removed": len(data.removed),
                }
                for data in self.plan.facts.data.values()
            ],
            **outlook,
            "beyond_budget": {
                "configurations": len(self.plan.beyond_budget),
                "trials": self.plan.num_beyond_budget,
                "names": [configuration.label for configuration in self.plan.beyond_budget],
            },
            "trials": [
                {
                    "key": trial.spec.key,
                    "name": trial.spec.name,
                    "state": trial.state,
                    "config": describe_config(trial.spec),
                    "configuration": trial.configuration.id,
                    "row": row_of(trial.configuration),
                    "estimated_s": round(durations_s[trial.spec.key], 1) if trial.spec.key in durations_s else None,
                }
                for trial in self.plan.trials
            ],
            "ensembles": [ensemble.to_json() for ensemble in self.ensembles],
        }

    def render(self) -> Group:
        table = Table(title=f"Plan of {self.plan.sweep}", box=None, padding=(0, 1), header_style="dim", title_justify="left")
        for title in ("", "trial", "epochs", "seed", "key", "state"):
            table.add_column(title, justify="right" if title in ("", "epochs", "seed") else "left", overflow="fold")
        for number, trial in enumerate(self.plan.trials, start=1):
            spec, state = trial.spec, "new" if trial.state is TrialState.WAITING else trial.state.lower()
            colored = f"[{STATE_COLORS.get(trial.state, 'default')}]{state}[/]"
            table.add_row(str(number), escape(spec.name), str(spec.train.epochs), str(spec.seed), spec.key, colored)
        parts = [table] if not self.ensembles else [table, _draw_ensembles(self.ensembles)]
        lines = (*describe_data(self.plan), summarize_plan(self.spec, self.plan), *(self.outlook.lines() if self.outlook else ()))
        return Group(*parts, *map(Text, lines))


def describe_data(plan: Plan) -> list[str]:
    """One line per data set: its images, and how many data.clean removed."""
    return [
        f"data: {data.source}: {data.num_images} images of {data.height}x{data.width}, {data.num_classes} classes"
        + (f", {len(data.removed)} more removed by data.clean" if data.removed else "")
        for data in plan.facts.data.values()
    ]


def summarize_plan(spec: SweepSpec, plan: Plan) -> str:
    """One line: how many trials, and how many of them are done."""
    count = Counter(trial.state for trial in plan.trials)
    done = f", {count[TrialState.CACHED]} of them already done" if count[TrialState.CACHED] else ""
    other = "".join(f", {count[state]} {state.lower()}" for state in (TrialState.FAILED, TrialState.PRUNED) if count[state])
    if plan.open_ended and spec.budget is not None:
        method = spec.search.method if spec.search else ""
        allowed = f"up to {spec.budget.trials} trials; {len(plan.trials)} so far{done}"
        return f"{plan.sweep}: {method} proposes as results come in, {allowed}"
    ensembles = f", then {len(plan.ensembles)} ensembles" if plan.ensembles else ""
    counted = f"{len(plan.configurations)} configurations, {len(plan.trials)} trials{done}{other}{ensembles}"
    if not plan.beyond_budget or spec.budget is None:
        return f"{plan.sweep}: {counted}"
    every = f"{len(plan.configurations) + len(plan.beyond_budget)} {'rows' if spec.rows else 'configurations'}"
    left_out = f"leaves out {len(plan.beyond_budget)} of {every} ({plan.num_beyond_budget} trials)"
    return f"{plan.sweep}: {counted}; budget.trials {spec.budget.trials} {left_out}, from {plan.beyond_budget[0].label} on"


def _draw_ensembles(ensembles: Sequence[EnsembleOutcome]) -> Table:
    table = Table(title="Then, from their predictions", box=None, padding=(0, 1), header_style="dim", title_justify="left")
    for title in ("ensemble", "rows", "state"):
        table.add_column(title, overflow="fold")
    for ensemble in ensembles:
        state = "new" if ensemble.state is EnsembleState.WAITING else ensemble.state.lower()
        why = f": {ensemble.reason}" if ensemble.reason and ensemble.state is not EnsembleState.WAITING else ""
        table.add_row(escape(ensemble.planned.title), escape(", ".join(map(str, ensemble.planned.rows))), escape(state + why))
    return table


def _describe_ensemble(ensemble: EnsembleOutcome) -> str:
    """One line: its value and the gain over its best member, or why there is none."""
    title, result = f"Ensemble {ensemble.planned.title}", ensemble.result
    if result is None or not all(map(math.isfinite, (result.miou, *result.ci95))):
        return f"{title}: {ensemble.state.lower()}, {ensemble.reason or 'nothing is scored'}"
    (low, high), (gain_low, gain_high), gain = result.ci95, result.gain_ci95, result.gain_over_best_member
    reported = "" if ensemble.planned.reported is None else f"; reported {ensemble.planned.reported:.3f}"
    return (
        f"{title}: mIoU {result.miou:.4f} ({low:.4f} to {high:.4f}), "
        f"{gain:+.4f} ({gain_low:+.4f} to {gain_high:+.4f}) over its best member{reported}"
    )


def _trial_json(trial: TrialOutcome, run_id: str | None) -> dict[str, Any]:
    spec, result = trial.spec, trial.result
    metrics = result.metrics if result else {}
    return {
        "key": spec.key,
        "name": spec.name,
        "state": trial.state,
        "config": describe_config(spec),
        "metrics": {name: value for name, value in metrics.items() if math.isfinite(value)},
        "run_id": run_id,
        "attempts": trial.attempts,
        "reason": trial.reason,
        "failure": result.failure if result else None,
        "deviation": result.deviation if result else None,
    }
