"""What a person is told of a plan before anything runs: what was changed, what it will take in time and on disk, what drifted."""

from __future__ import annotations

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
from orchestrator.planning.forecast.diff import Changes, compare, content_of
from orchestrator.planning.forecast.estimates import Estimate, Estimator, Job, Machine, estimate
from orchestrator.planning.forecast.snapshot import read_record
from orchestrator.planning.forecast.timings import Timing, read_timings
from orchestrator.planning.plan import Plan, longest_first, trials_of
from orchestrator.spec.model import SweepSpec
from orchestrator.spec.space import sample_points
from orchestrator.state.disk import GB, DiskEstimate, free_gb
from orchestrator.state.home import Home
from orchestrator.state.ledger import Ledger
from orchestrator.state.machine import describe_drift, library_versions
from orchestrator.state.trial.records import TrialSpec, TrialState

MAX_STAND_INS = 200


@dataclass(frozen=True)
class Outlook:
    """What is known beforehand; ``notes`` say why something is not known, or what else to beware of.

    changes: None where the sweep has not been begun before. num_left: configuration's id -> its trials that are still to run.
    """

    changes: Changes | None
    num_left: dict[str, int]
    estimate: Estimate | None
    disk: DiskEstimate | None
    drift: str | None
    notes: tuple[str, ...] = ()

    @property
    def durations_s(self) -> Mapping[str, float]:
        """What each trial that is to run is expected to take, by its key."""
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
        """For people, the changes first."""
        lines = []
        if self.changes is not None and not self.changes.is_empty:
            since = datetime.fromtimestamp(self.changes.since_s).strftime("%Y-%m-%d %H:%M")
            lines.append(f"changed since the sweep was begun on {since}:")
            lines += [f"  {line}" for line in self.changes.describe(self.num_left)]
            lines += [f"  as before: {self.changes.num_unchanged} of the configurations"] * bool(self.changes.num_unchanged)
        lines += [known.describe() for known in (self.estimate, self.disk) if known is not None]
        return [*lines, *([self.drift] if self.drift else []), *self.notes]


def look_ahead(spec: SweepSpec, plan: Plan, home: Home, ledger: Ledger, *, slots: int | None) -> Outlook:
    """Put together what this machine knows of a plan; slots: as run_sweep."""
    notes: list[str] = []
    changes = _find_changes(spec, plan, home, ledger, notes)
    timings = read_timings(home.trials, [trial.spec.key for trial in plan.trials], _picture_sizes(plan))
    costs = _estimate(spec, plan, timings, home=home, slots=slots, notes=notes)
    return Outlook(
        changes=changes,
        num_left=dict(Counter(trial.configuration.id for trial in plan.left)),
        estimate=costs,
        disk=_reckon_disk(spec, costs, home) if costs else None,
        drift=_find_drift(plan, timings),
        notes=tuple(notes),
    )


def _find_changes(spec: SweepSpec, plan: Plan, home: Home, ledger: Ledger, notes: list[str]) -> Changes | None:
    try:
        before = read_record(home.plans, spec.name)
    except TrialError as error:
        notes.append(str(error))
        return None
    if before is not None:
        return compare(before, content_of(spec, plan))
    earlier = ledger.members(spec.name)
    gone = earlier.keys() - {trial.spec.key for trial in plan.trials}
    if gone and not plan.open_ended:
        notes.append(
            f"{len(gone)} of {len(earlier)} trials that {spec.name} had are no longer in its file; what else was changed is kept "
            "on the machine that began it"
        )
    return None


def _estimate(
    spec: SweepSpec, plan: Plan, timings: Sequence[Timing], *, home: Home, slots: int | None, notes: list[str]
) -> Estimate | None:
    unlisted = _stand_in(spec, plan)
    if not plan.left and not unlisted:
        return None
    try:
        machine = _find_machine(spec, slots)
    except LaunchError as error:
        notes.append(f"no estimate: {error}")
        return None
    estimator = Estimator(timings, machine)
    found = estimate([_job(trial.spec, plan) for trial in plan.left], estimator, machine, unlisted=unlisted)
    if found is not None:  # now that durations are known: in the order in which the trials will be started
        in_order = longest_first(plan, spec, found.durations_s).left
        found = estimate([_job(trial.spec, plan) for trial in in_order], estimator, machine, unlisted=unlisted)
    if found is None:
        where = "the CPU" if machine.is_cpu else machine.device
        notes.append(f"no estimate: nothing has been trained on {where} in {home.root} yet")
    elif spec.budget and spec.budget.hours and found.wall_s > spec.budget.hours * 3600:
        notes.append(f"budget.hours {spec.budget.hours:g} will end it before that")
    return found


def _find_machine(spec: SweepSpec, slots: int | None) -> Machine:
    asked = spec.resources
    shares = None if asked.trials_per_gpu == "auto" else asked.trials_per_gpu  # how many will fit is not known beforehand
    found = find_slots(slots or asked.slots, asked.threads_per_slot, trials_per_gpu=shares)
    device = "cpu"
    if uuid := found[0].visible_devices:
        device = next((gpu.name for gpu in ask_driver().by_index.values() if gpu.uuid == uuid and gpu.name), "GPU")
    return Machine(device, len(found), found[0].num_threads, len({slot.visible_devices for slot in found}))


def _job(spec: TrialSpec, plan: Plan) -> Job:
    found, sizes = plan.facts.of(spec.data), plan.facts.sizes_of(spec.data, spec.fold)
    size = spec.train.input_size or (found.height, found.width)
    return Job(spec, size, sizes.num_train, sizes.num_val)


def _stand_in(spec: SweepSpec, plan: Plan) -> list[Job]:
    """For each trial that a search has not proposed yet, one of the points that show every choice of its space."""
    if not plan.open_ended or spec.search is None or spec.budget is None or spec.budget.trials is None:
        return []
    num_allowed = spec.budget.trials // spec.trials_per_configuration * spec.trials_per_configuration
    points = itertools.islice(sample_points(spec.search, spec.base, spec.data), MAX_STAND_INS)
    trials = [trial for point in points for trial in trials_of(resolve(spec, point, plan.facts), spec, plan.facts)]
    return [_job(trial, plan) for trial in itertools.islice(itertools.cycle(trials), max(0, num_allowed - len(plan.trials)))]


def _picture_sizes(plan: Plan) -> dict[str, tuple[int, int]]:
    return {data.fingerprint: (data.height, data.width) for data in plan.facts.data.values()}


def _reckon_disk(spec: SweepSpec, costs: Estimate, home: Home) -> DiskEstimate:
    copies = 2 if home.tracking is None else 1  # where MLflow's artifacts lie in this home too
    return DiskEstimate(
        folder=home.root,
        free_gb=free_gb(home.root),
        floor_gb=spec.limits.free_disk_gb,
        kept_gb=costs.kept_bytes * copies / GB,
        running_gb=costs.running_bytes / GB,
        first_gb=costs.first_bytes * copies / GB,
        is_guess=costs.is_guess,
    )


def _find_drift(plan: Plan, timings: Sequence[Timing]) -> str | None:
    cached = {trial.spec.key for trial in plan.trials if trial.state is TrialState.CACHED}
    return describe_drift([timing.versions or {} for timing in timings if timing.key in cached], library_versions())
