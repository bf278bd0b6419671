"""Puts together what a person sees of a plan before anything runs."""

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from orchestrator.errors import LaunchError, TrialError
from orchestrator.launchers.slots.driver import ask_driver
from orchestrator.launchers.slots.table import find_slots
from orchestrator.planning.configuration import resolve
from orchestrator.planning.forecast.diff import PlanDiff, compare
from orchestrator.planning.forecast.estimates import Estimator, Machine, SweepEstimate, Workload, estimate
from orchestrator.planning.forecast.snapshot import PlanSnapshot, read_snapshot, take_snapshot
from orchestrator.planning.forecast.timings import Timing, read_timings
from orchestrator.planning.plan import Plan, PlannedTrial, longest_first, plan_trials
from orchestrator.spec.model import SweepSpec
from orchestrator.spec.space import sample_points
from orchestrator.state.disk import GB, DiskEstimate, free_gb
from orchestrator.state.home import Home
from orchestrator.state.ledger import Ledger
from orchestrator.state.machine import describe_drift, library_versions
from orchestrator.state.trial.records import TrialState

MAX_SAMPLES = 200
"""Number of points that stand for what a search has not proposed yet."""


@dataclass(frozen=True)
class Outlook:
    """What is known before anything runs. notes: why something is unknown, and further warnings.

    start_order: the plan with its longest trials first. changes: None if the sweep never began. num_left: configuration's id ->
    number of its unfinished trials.
    """

    snapshot: PlanSnapshot
    start_order: Plan
    changes: PlanDiff | None
    num_left: dict[str, int]
    estimate: SweepEstimate | None
    disk: DiskEstimate | None
    drift: str | None
    notes: tuple[str, ...] = ()

    @property
    def durations_s(self) -> Mapping[str, float]:
        """Expected duration of each unfinished trial, by key."""
        return self.estimate.durations_s if self.estimate else {}

    def to_json(self) -> dict[str, Any]:
        return {
            "changes": self.changes.to_json() if self.changes else None,
            "estimate": self.estimate.to_json() if self.estimate else None,
            "disk": self.disk.to_json() if self.disk else None,
            "drift": self.drift,
            "notes": list(self.notes),
        }

    def lines(self) -> list[str]:
        """For people, edits first."""
        lines = []
        if self.changes is not None and not self.changes.is_empty:
            since = datetime.fromtimestamp(self.changes.since_s).strftime("%Y-%m-%d %H:%M")
            lines.append(f"changed since the sweep began on {since}:")
            lines += [f"  {line}" for line in self.changes.describe(self.num_left)]
            lines += [f"  unchanged: {self.changes.num_unchanged} configurations"] * bool(self.changes.num_unchanged)
        lines += [known.describe() for known in (self.estimate, self.disk) if known is not None]
        return [*lines, *([self.drift] if self.drift else []), *self.notes]


def look_ahead(spec: SweepSpec, plan: Plan, home: Home, ledger: Ledger, *, slots: int | None) -> Outlook:
    """Compare a plan with the last run and estimate its cost on this machine. slots: as run_sweep."""
    notes: list[str] = []
    snapshot = take_snapshot(spec, plan)
    changes = _find_changes(snapshot, plan, home, ledger, notes)
    sizes = {data.fingerprint: (data.height, data.width) for data in plan.facts.data.values()}
    timings = read_timings(home.trials, [trial.spec.key for trial in plan.trials], sizes)
    cached = {trial.spec.key for trial in plan.trials if trial.state is TrialState.CACHED}
    costs, start_order = _estimate(spec, plan, timings, home=home, slots=slots, notes=notes)
    return Outlook(
        snapshot=snapshot,
        start_order=start_order,
        changes=changes,
        num_left=dict(Counter(trial.configuration.id for trial in plan.left)),
        estimate=costs,
        disk=_estimate_disk(spec, costs, home) if costs else None,
        drift=describe_drift([timing.versions or {} for timing in timings if timing.key in cached], library_versions()),
        notes=tuple(notes),
    )


def _find_changes(snapshot: PlanSnapshot, plan: Plan, home: Home, ledger: Ledger, notes: list[str]) -> PlanDiff | None:
    try:
        before = read_snapshot(home.plans, plan.sweep)
    except TrialError as error:
        notes.append(str(error))
        return None
    if before is not None:
        return compare(before, snapshot)
    earlier = ledger.members(plan.sweep)
    gone = earlier.keys() - {trial.spec.key for trial in plan.trials}
    if gone and not plan.open_ended:
        notes.append(
            f"{len(gone)} of {len(earlier)} trials of {plan.sweep} are no longer in its file; the machine that began it can show "
            "further changes"
        )
    return None


def _estimate(
    spec: SweepSpec, plan: Plan, timings: Sequence[Timing], *, home: Home, slots: int | None, notes: list[str]
) -> tuple[SweepEstimate | None, Plan]:
    """Estimate the unfinished trials, and order the plan by their durations."""
    unlisted = _sample_unlisted(spec, plan)
    if not plan.left and not unlisted:
        return None, plan
    try:
        machine = _find_machine(spec, slots)
    except LaunchError as error:
        notes.append(f"no estimate: {error}")
        return None, plan
    estimator = Estimator(timings, machine)
    start_order = plan
    found = estimate([_workload(trial, plan) for trial in plan.left], estimator, unlisted=unlisted)
    if found is not None:  # estimate again in the order that the durations imply
        start_order = longest_first(plan, spec, found.durations_s)
        found = estimate([_workload(trial, plan) for trial in start_order.left], estimator, unlisted=unlisted)
    if found is None:
        where = "the CPU" if machine.is_cpu else machine.device
        notes.append(f"no estimate: nothing has been trained on {where} in {home.root} yet")
    elif spec.budget and spec.budget.hours and found.wall_s > spec.budget.hours * 3600:
        notes.append(f"budget.hours {spec.budget.hours:g} will end it before that")
    return found, start_order


def _find_machine(spec: SweepSpec, slots: int | None) -> Machine:
    asked = spec.resources
    shares = None if asked.trials_per_gpu == "auto" else asked.trials_per_gpu  # "auto": the number is known once trials run
    found = find_slots(slots or asked.slots, asked.threads_per_slot, trials_per_gpu=shares)
    device = "cpu"
    if uuid := found[0].visible_devices:
        device = next((gpu.name for gpu in ask_driver().by_index.values() if gpu.uuid == uuid and gpu.name), "GPU")
    return Machine(device, len(found), found[0].num_threads, len({slot.visible_devices for slot in found}))


def _workload(trial: PlannedTrial, plan: Plan) -> Workload:
    spec = trial.spec
    found, sizes = plan.facts.of(spec.data), plan.facts.sizes_of(spec.data, spec.fold)
    size = spec.train.input_size or (found.height, found.width)
    return Workload(spec, size, sizes.num_train, sizes.num_val)


def _sample_unlisted(spec: SweepSpec, plan: Plan) -> list[Workload]:
    """For each trial that the search has not proposed yet, a sample point; together they cover every choice of the space."""
    if not plan.open_ended or spec.search is None or spec.budget is None or spec.budget.trials is None:
        return []
    num_allowed = spec.budget.trials // spec.trials_per_configuration * spec.trials_per_configuration
    points = itertools.islice(sample_points(spec.search, spec.base, spec.data), MAX_SAMPLES)
    trials = [trial for point in points for trial in plan_trials(resolve(spec, point, plan.facts), spec, plan.facts)]
    return [_workload(trial, plan) for trial in itertools.islice(itertools.cycle(trials), max(0, num_allowed - len(plan.trials)))]


def _estimate_disk(spec: SweepSpec, costs: SweepEstimate, home: Home) -> DiskEstimate:
    copies = 2 if home.tracking is None else 1  # without a server, MLflow stores artifacts in this home too
    return DiskEstimate(
        folder=home.root,
        free_gb=free_gb(home.root),
        floor_gb=spec.limits.free_disk_gb,
        kept_gb=costs.kept_bytes * copies / GB,
        running_gb=costs.running_bytes / GB,
        first_gb=costs.first_bytes * copies / GB,
        is_guess=costs.is_guess,
    )
