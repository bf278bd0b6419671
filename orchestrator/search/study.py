"""A sweep's record in Optuna: one trial per configuration, with its owner; search.py and proposers.py write and read it."""

import datetime
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial
from optuna.trial import TrialState as OptunaState

from orchestrator.planning.configuration import Configuration
from orchestrator.search.sampling import Dimension
from orchestrator.search.study_trial import StudyTrial, describe, identify, read_trials
from orchestrator.state.trial.records import TrialState

NO_OWNER_S = 60.0
"""A trial that runs this long without an owner was asked for by a process that died before it claimed the trial."""

ENDED = {
    TrialState.COMPLETE: OptunaState.COMPLETE,
    TrialState.CACHED: OptunaState.COMPLETE,
    TrialState.PRUNED: OptunaState.PRUNED,
}
"""State of our trial -> state of Optuna's; all other states are FAIL there."""

SPENT = "gpu_s/"
"""Prefix of the study's attributes that hold GPU seconds; an owner's name follows."""


class Study:
    """One sweep's study. Used by one thread; other processes may work on the same one.

    A trial that can be resumed is WAITING; it keeps its number and its reports.

    name: of the study. owner: of the trials that this process claims. rounds: seeds and folds that a value is the mean of.
    is_dead: whether an owner has ended.
    """

    def __init__(
        self, storage: BaseStorage, *, name: str, owner: str, sweep: str, rounds: str, is_dead: Callable[[str], bool]
    ) -> None:
        self._storage, self._owner, self._is_dead = storage, owner, is_dead
        self._marks = {"sweep": sweep, "rounds": rounds}
        self._study = optuna.create_study(study_name=name, storage=storage, direction="maximize", load_if_exists=True)
        for key, value in self._marks.items():
            if self._study.user_attrs.get(key) != value:
                self._study.set_user_attr(key, value)
        self._known: dict[str, StudyTrial] = {}
        self._open: set[int] = set()
        self._num_seen = 0
        self._steps_to_add: dict[str, dict[int, float]] = {}
        self._spent_earlier_s: float | None = None

    def use(self, *, sampler: BaseSampler | None = None, pruner: BasePruner | None = None) -> None:
        """Set the sampler that ``ask`` uses and the pruner that ``is_worse`` uses."""
        self._study.sampler = sampler or self._study.sampler
        self._study.pruner = pruner or self._study.pruner

    def trials(self) -> list[StudyTrial]:
        """Return one trial per configuration, in the order of the first proposals; repeated proposals are left out."""
        self._refresh()
        return list(self._known.values())

    @property
    def is_exhausted(self) -> bool:
        return bool(self._study.user_attrs.get("exhausted"))

    def mark_exhausted(self) -> None:
        self._study.set_user_attr("exhausted", True)

    def ask(self) -> optuna.Trial:
        """Return a new trial, whose parameters the sampler suggests, or a requeued one, which has them already."""
        return self._study.ask()

    def claim(self, asked: optuna.Trial, configuration: Configuration) -> bool:
        """Claim an asked trial if its configuration is new; otherwise end it, with the value if that is known."""
        known = self._find(identify(configuration))
        if known is None or known.number == asked.number:
            asked.set_user_attr("owner", self._owner)
            asked.set_user_attr("configuration", describe(configuration))
            return True
        for step, value in known.steps.items():
            self._storage.set_trial_intermediate_value(asked._trial_id, step, value)
        if known.is_complete:
            self._study.tell(asked, known.value)
        else:
            self._study.tell(asked, state=OptunaState.PRUNED if known.state is OptunaState.PRUNED else OptunaState.FAIL)
        return False

    def params_of(self, configuration: Configuration) -> Mapping[str, Any] | None:
        """The point at which a configuration was first proposed; None where it was not."""
        known = self._find(identify(configuration))
        return None if known is None else known.params

    def start(self, configuration: Configuration, dimensions: Mapping[str, Dimension]) -> None:
        """Record that a configuration runs, unless the study has it as running or ended."""
        known = self._find(identify(configuration))
        if known is None or (known.is_requeued and known.state.is_finished()):
            self._add(configuration, dimensions, state=OptunaState.RUNNING)
        elif known.is_requeued and self._set_running(known.id):
            self._storage.set_trial_user_attr(known.id, "owner", self._owner)

    def finish(
        self,
        configuration: Configuration,
        dimensions: Mapping[str, Dimension],
        *,
        value: float | None,
        state: TrialState,
        reason: str | None = None,
    ) -> None:
        """Record a configuration's outcome; a complete one stays as it is. WAITING requeues it."""
        known = self._find(identify(configuration))
        ended = ENDED.get(state, OptunaState.FAIL)
        if ended is OptunaState.COMPLETE and (value is None or not math.isfinite(value)):
            raise ValueError(f"configuration {configuration.label!r} is {state} and needs a finite value, not {value}")
        attrs: dict[str, Any] = {"is_failed": True} if state is TrialState.FAILED else {}
        attrs |= {"reason": reason} if reason else {}
        if state is TrialState.WAITING:
            if (running := self._running(identify(configuration))) is not None:
                self._requeue(self._study, running)
        elif known is not None and not known.state.is_finished():
            with suppress(UpdateFinishedTrialError):  # another dispatcher ends it now: Optuna checks first and writes later
                for key, attr in attrs.items():
                    self._storage.set_trial_user_attr(known.id, key, attr)
                self._set_running(known.id)
                value = value if ended is OptunaState.COMPLETE else None
                self._study.tell(known.number, value, state=ended, skip_if_finished=True)
        elif known is None or (ended is OptunaState.COMPLETE and not known.is_complete):  # complete before this run, or retried
            self._add(configuration, dimensions, state=ended, value=value, attrs=attrs)

    def requeue_abandoned(self) -> None:
        """Requeue the running trials of dead owners, also in studies of earlier spaces and seeds, which nobody else opens."""
        for study in [self._study, *self._related_studies()]:
            self._requeue_unfinished(study, lambda trial: _is_abandoned(trial, self._is_dead))

    def requeue_own(self) -> None:
        """Requeue what this owner has running."""
        self._requeue_unfinished(self._study, lambda trial: trial.user_attrs.get("owner") == self._owner)

    def completed_before(self) -> Iterator[StudyTrial]:
        """Yield complete trials of this sweep's earlier studies whose values are means over the same rounds."""
        for study in self._related_studies():
            if study.user_attrs.get("rounds") == self._marks["rounds"]:
                yield from (trial for trial in read_trials(study.get_trials(deepcopy=False)) if trial.is_complete)

    def add_steps(self, identity: str, steps: Mapping[int, float]) -> None:
        """Enter a trial's reports at steps that have none yet; without a running trial, keep them until one is added."""
        trial = self._running(identity)
        if trial is not None:
            for step in sorted(steps.keys() - trial.intermediate_values.keys()):
                with suppress(UpdateFinishedTrialError):  # another dispatcher has just ended it
                    self._storage.set_trial_intermediate_value(trial._trial_id, step, steps[step])
        elif identity not in self._known or not self._known[identity].is_complete:  # new to the study, or retried
            self._steps_to_add.setdefault(identity, {}).update(steps)

    def is_worse(self, identity: str) -> bool:
        """Whether the pruner would end a running trial, by its reports so far."""
        trial = self._running(identity)
        with suppress(UpdateFinishedTrialError), warnings.catch_warnings():  # another dispatcher has just ended it
            warnings.simplefilter("ignore")  # about NaN values, and about a best trial without reports
            return trial is not None and self._study.pruner.prune(self._study, trial)
        return False

    def steps_of(self, identity: str) -> Mapping[int, float]:
        """The reports of a configuration's trial: step -> value."""
        trial = self._running(identity)
        return trial.intermediate_values if trial is not None else self._steps_to_add.get(identity, {})

    def mark_pruned(self, identity: str) -> None:
        """Record that a configuration is to be pruned, so that other processes and later runs prune it too."""
        if (known := self._find(identity)) is not None:
            with suppress(UpdateFinishedTrialError):  # another dispatcher has just ended it
                self._storage.set_trial_user_attr(known.id, "given_up", True)

    def is_pruned(self, identity: str) -> bool:
        """Whether a configuration is pruned or is to be pruned."""
        trial = self._latest(identity)
        if trial is None or trial.state.is_finished():
            return trial is not None and trial.state is OptunaState.PRUNED
        return bool(trial.user_attrs.get("given_up"))

    def spent_gpu_s(self) -> float:
        """GPU time that all owners have recorded for attempts of this sweep."""
        if self._spent_earlier_s is None:
            self._spent_earlier_s = sum(_sum_spent(study) for study in self._related_studies())
        return self._spent_earlier_s + _sum_spent(self._study)

    def add_spent(self, gpu_s: float) -> None:
        """Record GPU time of this owner's attempts; each owner writes its own sum, so that none is overwritten."""
        name = SPENT + self._owner
        self._study.set_user_attr(name, self._study.user_attrs.get(name, 0.0) + gpu_s)

    def _find(self, identity: str) -> StudyTrial | None:
        """A configuration's trial, up to date."""
        known = self._known.get(identity)
        if known is None or known.number not in self._open:
            self._refresh()
        else:  # other new trials do not change this one
            self._remember([self._storage.get_trial(known.id)])
        return self._known.get(identity)

    def _refresh(self) -> None:
        """Read new trials, and again those that were unfinished when last read."""
        trials = self._study.get_trials(deepcopy=False)
        self._remember([trials[number] for number in sorted(self._open)] + trials[self._num_seen :])
        self._num_seen = len(trials)

    def _remember(self, changed: Sequence[FrozenTrial]) -> None:
        self._open -= {t.number for t in changed}
        self._open |= {t.number for t in changed if not t.state.is_finished()}
        for trial in read_trials(changed):
            known = self._known.get(trial.identity)
            # two dispatchers may have asked for the same configuration at once: the trial with a result counts
            if known is None or known.number == trial.number or not known.is_complete:
                self._known[trial.identity] = trial

    def _running(self, identity: str) -> FrozenTrial | None:
        """A configuration's trial if it has not ended."""
        trial = self._latest(identity)
        return None if trial is None or trial.state.is_finished() else trial

    def _latest(self, identity: str) -> FrozenTrial | None:
        known = self._known.get(identity) or self._find(identity)
        return None if known is None else self._storage.get_trial(known.id)

    def _add(
        self,
        configuration: Configuration,
        dimensions: Mapping[str, Dimension],
        *,
        state: OptunaState,
        value: float | None = None,
        attrs: Mapping[str, Any] | None = None,
    ) -> None:
        params = {path: str(v) if path == "row" else v for path, v in configuration.params.items()}
        self._study.add_trial(
            optuna.trial.create_trial(
                state=state,
                value=value,
                params={path: dimensions[path].encode(v) for path, v in params.items()},
                distributions={path: dimensions[path].distribution for path in params},
                user_attrs={"owner": self._owner, "configuration": describe(configuration), **(attrs or {})},
                intermediate_values=self._steps_to_add.pop(identify(configuration), {}),
            )
        )

    def _set_running(self, trial_id: int) -> bool:
        """Set a requeued trial to RUNNING; False if it has ended meanwhile."""
        try:
            return self._storage.set_trial_state_values(trial_id, OptunaState.RUNNING)
        except UpdateFinishedTrialError:
            return False

    def _requeue_unfinished(self, study: optuna.Study, is_left: Callable[[FrozenTrial], bool]) -> None:
        """Requeue running trials that ``is_left``; one with a complete twin, of another dispatcher, gets its value instead."""
        unfinished = study.get_trials(deepcopy=False, states=(OptunaState.RUNNING, OptunaState.WAITING))
        left = [trial for trial in unfinished if trial.state is OptunaState.WAITING or is_left(trial)]
        if not left:
            return
        complete = {one.identity: one for one in read_trials(study.get_trials(deepcopy=False)) if one.is_complete}
        twins = {one.number: complete.get(one.identity) for one in read_trials(left)}
        for trial in left:
            if (twin := twins.get(trial.number)) is not None:
                with suppress(UpdateFinishedTrialError):  # another dispatcher has just ended it
                    self._storage.set_trial_state_values(trial._trial_id, OptunaState.RUNNING)  # it may be requeued
                    study.tell(trial.number, twin.value, skip_if_finished=True)
            elif trial.state is OptunaState.RUNNING:
                self._requeue(study, trial)

    def _requeue(self, study: optuna.Study, trial: FrozenTrial) -> None:
        """Requeue a claimed trial; fail one that was never claimed, because nothing says what it was for."""
        with suppress(UpdateFinishedTrialError):
            if "configuration" in trial.user_attrs:
                self._storage.set_trial_state_values(trial._trial_id, OptunaState.WAITING)
            else:
                study.tell(trial.number, state=OptunaState.FAIL, skip_if_finished=True)

    def _related_studies(self) -> Iterator[optuna.Study]:
        """Yield the sweep's studies of earlier spaces, seeds and pruners."""
        for other in self._storage.get_all_studies():
            if other.study_name != self._study.study_name and other.user_attrs.get("sweep") == self._marks["sweep"]:
                yield optuna.load_study(study_name=other.study_name, storage=self._storage)


def _sum_spent(study: optuna.Study) -> float:
    return sum(float(value) for key, value in study.user_attrs.items() if key.startswith(SPENT))


def _is_abandoned(trial: FrozenTrial, is_dead: Callable[[str], bool]) -> bool:
    if owner := trial.user_attrs.get("owner"):
        return is_dead(owner)
    assert trial.datetime_start is not None, "Optuna sets it when a trial is asked for"
    return datetime.datetime.now() - trial.datetime_start > datetime.timedelta(seconds=NO_OWNER_S)
