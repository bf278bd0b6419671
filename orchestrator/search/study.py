"""A sweep's record in Optuna: one trial a configuration, with its owner, told once; what searches.py writes down."""

from __future__ import annotations

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
"""A running trial without an owner after this long was asked by somebody who died before signing it."""

ENDED = {
    TrialState.COMPLETE: OptunaState.COMPLETE,
    TrialState.CACHED: OptunaState.COMPLETE,
    TrialState.PRUNED: OptunaState.PRUNED,
}
"""What becomes of an Optuna trial; all else is FAIL there."""

SPENT = "gpu_s/"
"""Of a study's attribute, before an owner's name."""


class Study:
    """One sweep's study. Used by one thread; other processes may work on the same one.

    A trial that can be gone on with is WAITING and keeps its number and what it has reported.
    name: of the study. owner: signs what this process asks. rounds: what a value is the mean over. is_dead: of an owner.
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
        self._notes: dict[str, dict[int, float]] = {}
        self._spent_earlier_s: float | None = None

    def use(self, *, sampler: BaseSampler | None = None, pruner: BasePruner | None = None) -> None:
        """Let ``sampler`` choose what ``ask`` proposes, and ``pruner`` decide in ``is_worse``."""
        self._study.sampler = sampler or self._study.sampler
        self._study.pruner = pruner or self._study.pruner

    def trials(self) -> list[StudyTrial]:
        """One for each configuration, in the order of the first proposal; repeated proposals are left out."""
        self._refresh()
        return list(self._known.values())

    @property
    def is_exhausted(self) -> bool:
        return bool(self._study.user_attrs.get("exhausted"))

    def mark_exhausted(self) -> None:
        self._study.set_user_attr("exhausted", True)

    def ask(self) -> optuna.Trial:
        """A new trial, whose parameters the sampler suggests; or one that was given back, which has them."""
        return self._study.ask()

    def keep(self, asked: optuna.Trial, configuration: Configuration) -> bool:
        """Sign an asked trial, if its configuration is new; otherwise end it, with the value if that is known."""
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
        """The point by which a configuration was first proposed; None where it was not."""
        known = self._find(identify(configuration))
        return None if known is None else known.params

    def start(self, configuration: Configuration, dimensions: Mapping[str, Dimension]) -> None:
        """Record that a configuration runs, unless the study knows it as running or ended."""
        known = self._find(identify(configuration))
        if known is None or (known.is_given_back and known.state.is_finished()):
            self._add(configuration, dimensions, state=OptunaState.RUNNING)
        elif known.is_given_back and self._take_up(known.number):
            self._set_attr(known.number, "owner", self._owner)

    def finish(
        self,
        configuration: Configuration,
        dimensions: Mapping[str, Dimension],
        *,
        value: float | None,
        state: TrialState,
        reason: str | None = None,
    ) -> None:
        """Record how a configuration ended; what the study knows as complete stays as it is. WAITING gives it back."""
        known = self._find(identify(configuration))
        ended = ENDED.get(state, OptunaState.FAIL)
        if ended is OptunaState.COMPLETE and (value is None or not math.isfinite(value)):
            raise ValueError(f"configuration {configuration.label!r} is {state} and needs a finite value, not {value}")
        attrs: dict[str, Any] = {"is_failed": True} if state is TrialState.FAILED else {}
        attrs |= {"reason": reason} if reason else {}
        if state is TrialState.WAITING:
            if (running := self._running(identify(configuration))) is not None:
                self._give_back(self._study, running)
        elif known is not None and not known.state.is_finished():
            self._end(known.number, ended, value if ended is OptunaState.COMPLETE else None, attrs)
        elif known is None or (ended is OptunaState.COMPLETE and not known.is_complete):  # found done, or tried again
            self._add(configuration, dimensions, state=ended, value=value, attrs=attrs)

    def give_back(self) -> None:
        """Give back the running trials of dead owners, so that their configurations are proposed again.

        In all studies of this sweep: nobody else would ever look into those of its earlier spaces and seeds.
        """
        for study in [self._study, *self._sisters()]:
            self._settle(study, lambda trial: _is_left_behind(trial, self._is_dead))

    def give_back_own(self) -> None:
        """Give back what this owner has running."""
        self._settle(self._study, lambda trial: trial.user_attrs.get("owner") == self._owner)

    def of_earlier_spaces(self) -> Iterator[StudyTrial]:
        """Complete trials of this sweep's other studies whose values are means over the same rounds."""
        for study in self._sisters():
            if study.user_attrs.get("rounds") == self._marks["rounds"]:
                yield from (trial for trial in read_trials(study.get_trials(deepcopy=False)) if trial.is_complete)

    def note(self, identity: str, steps: Mapping[int, float]) -> None:
        """Enter what a configuration's trial has reported, at steps that have nothing yet; where none runs, once one is added."""
        trial = self._running(identity)
        if trial is not None:
            for step in sorted(steps.keys() - trial.intermediate_values.keys()):
                with suppress(UpdateFinishedTrialError):  # another dispatcher may just have told it
                    self._storage.set_trial_intermediate_value(trial._trial_id, step, steps[step])
        elif identity not in self._known or not self._known[identity].is_complete:  # new to the study, or tried again
            self._notes.setdefault(identity, {}).update(steps)

    def is_worse(self, identity: str) -> bool:
        """Whether the pruner would end a running trial, as far as it has reported."""
        trial = self._running(identity)
        with suppress(UpdateFinishedTrialError), warnings.catch_warnings():  # another dispatcher may have just told it
            warnings.simplefilter("ignore")  # of NaN among the values, and of a best trial that has reported nothing
            return trial is not None and self._study.pruner.prune(self._study, trial)
        return False

    def steps_of(self, identity: str) -> Mapping[int, float]:
        """What a configuration's trial has reported."""
        trial = self._running(identity)
        return trial.intermediate_values if trial is not None else self._notes.get(identity, {})

    def give_up(self, identity: str) -> None:
        """Remember, also for other processes and over kills, that a configuration is to be pruned."""
        if (known := self._find(identity)) is not None:
            with suppress(UpdateFinishedTrialError):  # another dispatcher has just told it
                self._set_attr(known.number, "given_up", True)

    def is_given_up(self, identity: str) -> bool:
        """Whether a configuration has been pruned, or is to be."""
        trial = self._latest(identity)
        if trial is None or trial.state.is_finished():
            return trial is not None and trial.state is OptunaState.PRUNED
        return bool(trial.user_attrs.get("given_up"))

    def spent_gpu_s(self) -> float:
        """GPU time that attempts of this sweep have taken, as far as their owners have entered it."""
        if self._spent_earlier_s is None:
            self._spent_earlier_s = sum(_sum_spent(study) for study in self._sisters())
        return self._spent_earlier_s + _sum_spent(self._study)

    def add_spent(self, gpu_s: float) -> None:
        """Enter GPU time that this owner's attempts have taken; each owner writes its own sum, so that none is lost."""
        name = SPENT + self._owner
        self._study.set_user_attr(name, self._study.user_attrs.get(name, 0.0) + gpu_s)

    def _find(self, identity: str) -> StudyTrial | None:
        """A configuration's trial as it stands now."""
        known = self._known.get(identity)
        if known is None or known.number not in self._open:
            self._refresh()
        else:  # whatever else is new has no say in it
            self._take_in([self._storage.get_trial(self._id_of(known.number))])
        return self._known.get(identity)

    def _refresh(self) -> None:
        """Look at what is new, and at what was running when last seen."""
        trials = self._study.get_trials(deepcopy=False)
        self._take_in([trials[number] for number in sorted(self._open)] + trials[self._num_seen :])
        self._num_seen = len(trials)

    def _take_in(self, changed: Sequence[FrozenTrial]) -> None:
        """Remember how trials stand."""
        self._open -= {t.number for t in changed}
        self._open |= {t.number for t in changed if not t.state.is_finished()}
        for trial in read_trials(changed):
            known = self._known.get(trial.identity)
            # of two dispatchers that asked the same at the same moment, the one that has a result is right
            if known is None or known.number == trial.number or not known.is_complete:
                self._known[trial.identity] = trial

    def _running(self, identity: str) -> FrozenTrial | None:
        """A configuration's trial, if it has not ended."""
        trial = self._latest(identity)
        return None if trial is None or trial.state.is_finished() else trial

    def _latest(self, identity: str) -> FrozenTrial | None:
        """A configuration's trial as it stands now."""
        known = self._known.get(identity) or self._find(identity)
        return None if known is None else self._storage.get_trial(self._id_of(known.number))

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
                intermediate_values=self._notes.pop(identify(configuration), {}),
            )
        )

    def _end(self, number: int, ended: OptunaState, value: float | None, attrs: Mapping[str, Any]) -> None:
        """Tell a trial; another dispatcher may tell the same at the same moment: Optuna looks first and writes later."""
        with suppress(UpdateFinishedTrialError):
            for key, attr in attrs.items():
                self._set_attr(number, key, attr)
            self._take_up(number)
            self._study.tell(number, value, state=ended, skip_if_finished=True)

    def _take_up(self, number: int) -> bool:
        """Let a trial that was given back run; False where it is no longer to be had."""
        try:
            return self._storage.set_trial_state_values(self._id_of(number), OptunaState.RUNNING)
        except UpdateFinishedTrialError:
            return False

    def _settle(self, study: optuna.Study, is_left: Callable[[FrozenTrial], bool]) -> None:
        """Give back what is left of the running trials.

        But one whose configuration another trial has completed, because two dispatchers recorded it at the same moment, takes
        that one's value, also where it was given back before.
        """
        unfinished = study.get_trials(deepcopy=False, states=(OptunaState.RUNNING, OptunaState.WAITING))
        left = [trial for trial in unfinished if trial.state is OptunaState.WAITING or is_left(trial)]
        if not left:
            return
        complete = {one.identity: one for one in read_trials(study.get_trials(deepcopy=False)) if one.is_complete}
        twins = {one.number: complete.get(one.identity) for one in read_trials(left)}
        for trial in left:
            if (twin := twins.get(trial.number)) is not None:
                self._complete_like(study, trial, twin)
            elif trial.state is OptunaState.RUNNING:
                self._give_back(study, trial)

    def _complete_like(self, study: optuna.Study, trial: FrozenTrial, twin: StudyTrial) -> None:
        with suppress(UpdateFinishedTrialError):  # another dispatcher has just told it
            self._storage.set_trial_state_values(trial._trial_id, OptunaState.RUNNING)  # whoever has given it back
            study.tell(trial.number, twin.value, skip_if_finished=True)

    def _give_back(self, study: optuna.Study, trial: FrozenTrial) -> None:
        """Keep what was signed; what was not, nobody knows."""
        with suppress(UpdateFinishedTrialError):
            if "configuration" in trial.user_attrs:
                self._storage.set_trial_state_values(trial._trial_id, OptunaState.WAITING)
            else:
                study.tell(trial.number, state=OptunaState.FAIL, skip_if_finished=True)

    def _set_attr(self, number: int, key: str, value: Any) -> None:
        self._storage.set_trial_user_attr(self._id_of(number), key, value)

    def _id_of(self, number: int) -> int:
        return self._storage.get_trial_id_from_study_id_trial_number(self._study._study_id, number)

    def _sisters(self) -> Iterator[optuna.Study]:
        """The sweep's studies of earlier spaces, seeds and pruners."""
        for other in self._storage.get_all_studies():
            if other.study_name != self._study.study_name and other.user_attrs.get("sweep") == self._marks["sweep"]:
                yield optuna.load_study(study_name=other.study_name, storage=self._storage)


def _sum_spent(study: optuna.Study) -> float:
    return sum(float(value) for key, value in study.user_attrs.items() if key.startswith(SPENT))


def _is_left_behind(trial: FrozenTrial, is_dead: Callable[[str], bool]) -> bool:
    if owner := trial.user_attrs.get("owner"):
        return is_dead(owner)
    assert trial.datetime_start is not None, "Optuna notes it when a trial is asked"
    return datetime.datetime.now() - trial.datetime_start > datetime.timedelta(seconds=NO_OWNER_S)
