"""A sweep's record in Optuna: one trial a configuration, with its owner, told once; what searches.py writes down."""

from __future__ import annotations

import datetime
import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from filelock import FileLock
from optuna.storages import BaseStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalStorage
from optuna.storages.journal._file import BaseJournalFileLock
from optuna.trial import FrozenTrial
from optuna.trial import TrialState as OptunaState

from orchestrator.configuration import Configuration
from orchestrator.errors import TrackingError
from orchestrator.search.sampling import Dimension
from orchestrator.secrets import redact
from orchestrator.trial import TrialState

NO_OWNER_S = 60.0
"""A running trial without an owner after this long was asked by somebody who died before signing it."""

ENDED = {
    TrialState.COMPLETE: OptunaState.COMPLETE,
    TrialState.CACHED: OptunaState.COMPLETE,
    TrialState.PRUNED: OptunaState.PRUNED,
}
"""What becomes of an Optuna trial; all else is FAIL there."""


class _KernelLock(BaseJournalFileLock):
    """A lock that vanishes with its holder; Optuna's own would hold everybody up for 30 s after a kill."""

    def __init__(self, path: Path) -> None:
        self._lock = FileLock(f"{path}.lock")

    def acquire(self) -> bool:
        self._lock.acquire()
        return True

    def release(self) -> None:
        self._lock.release()


def open_storage(location: Path | str) -> BaseStorage:
    """The storage of studies: a journal file of this machine, or a database by its URL.

    Raises:
        TrackingError: the database cannot be opened.
    """
    _log_through_logging()
    if isinstance(location, Path):
        return _open_journal(location)
    for wait_s in (0.2, 0.5, None):  # two processes that create the tables at once disturb each other: the next try finds them
        try:
            return RDBStorage(location)
        except Exception as error:  # the database driver's or SQLAlchemy's own, whatever they are
            if wait_s is None:
                raise TrackingError(_say_unusable(location, error)) from error
            time.sleep(wait_s)
    raise AssertionError("the last try returns or raises")


def _say_unusable(location: str, error: Exception) -> str:
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    return redact(f"{location}: the search's storage cannot be opened: {reason}. See ORCHESTRATE_STORAGE.")


def _log_through_logging() -> None:
    """Optuna prints by itself unless told otherwise."""
    optuna.logging.disable_default_handler()
    optuna.logging.enable_propagation()
    optuna.logging.set_verbosity(logging.WARNING)


def _open_journal(path: Path) -> BaseStorage:
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = _KernelLock(path)
    lock.acquire()
    try:
        _drop_torn_line(path)
    finally:
        lock.release()
    return JournalStorage(JournalFileBackend(str(path), lock_obj=lock))


def _drop_torn_line(path: Path) -> None:
    """A machine that went down while writing leaves half a line, behind which Optuna would refuse to read."""
    if path.exists() and (content := path.read_bytes()) and not content.endswith(b"\n"):
        with open(path, "r+b") as file:
            file.truncate(content.rfind(b"\n") + 1)


@dataclass(frozen=True)
class StudyTrial:
    """A configuration's trial in the study. params: as in Configuration. value: the mean val/miou, where it is complete."""

    number: int
    identity: str
    params: Mapping[str, Any]
    state: OptunaState
    value: float | None
    owner: str
    is_failed: bool
    """Trained and failed, as opposed to stopped or left behind."""

    @property
    def is_complete(self) -> bool:
        return self.state is OptunaState.COMPLETE

    @property
    def is_running(self) -> bool:
        return self.state is OptunaState.RUNNING

    @property
    def is_given_back(self) -> bool:
        return self.state is OptunaState.FAIL and not self.is_failed


def identify(configuration: Configuration) -> str:
    """What makes a configuration one trial of the study: two rows may differ in their seeds alone."""
    return configuration.id if configuration.seed is None else f"{configuration.id}-{configuration.seed}"


class Study:
    """One sweep's study. Used by one thread; other processes may work on the same one.

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

    def use(self, sampler: optuna.samplers.BaseSampler) -> None:
        """Let ``sampler`` choose what ``ask`` proposes."""
        self._study.sampler = sampler

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
        """A new trial, whose parameters the sampler suggests."""
        return self._study.ask()

    def keep(self, asked: optuna.Trial, configuration: Configuration) -> bool:
        """Sign an asked trial, if its configuration is new; otherwise end it, with the value if that is known."""
        self._refresh()
        known = self._known.get(identify(configuration))
        if known is None:
            asked.set_user_attr("owner", self._owner)
            asked.set_user_attr("configuration", _describe(configuration))
            return True
        if known.is_complete:
            self._study.tell(asked, known.value)
        else:
            self._study.tell(asked, state=OptunaState.PRUNED if known.state is OptunaState.PRUNED else OptunaState.FAIL)
        return False

    def start(self, configuration: Configuration, dimensions: Mapping[str, Dimension]) -> None:
        """Record that a configuration runs, unless the study knows it as running or ended."""
        self._refresh()
        known = self._known.get(identify(configuration))
        if known is None or known.is_given_back:
            self._add(configuration, dimensions, state=OptunaState.RUNNING, value=None)

    def finish(
        self, configuration: Configuration, dimensions: Mapping[str, Dimension], *, value: float | None, state: TrialState
    ) -> None:
        """Record how a configuration ended; what the study knows as complete stays as it is."""
        ended = ENDED.get(state, OptunaState.FAIL)
        if ended is OptunaState.COMPLETE and (value is None or not math.isfinite(value)):
            raise ValueError(f"configuration {configuration.label!r} is {state} and needs a finite value, not {value}")
        self._refresh()
        known = self._known.get(identify(configuration))
        if known is not None and known.is_running:
            self._end(known, ended, value, is_failed=state is TrialState.FAILED)
        elif ended is OptunaState.COMPLETE and (known is None or not known.is_complete):
            self._add(configuration, dimensions, state=ended, value=value)  # found done, or tried again with success

    def give_back(self) -> None:
        """End the running trials of dead owners, so that their configurations are proposed again.

        In all studies of this sweep: nobody else would ever look into those of its earlier spaces and seeds.
        """
        for summary in optuna.get_all_study_summaries(self._storage):
            if summary.user_attrs.get("sweep") != self._marks["sweep"]:
                continue
            study = optuna.load_study(study_name=summary.study_name, storage=self._storage)
            for trial in study.get_trials(deepcopy=False, states=(OptunaState.RUNNING,)):
                if _is_left_behind(trial, self._is_dead):
                    _tell_unless_ended(study, trial.number, None, state=OptunaState.FAIL)

    def of_earlier_spaces(self) -> Iterator[StudyTrial]:
        """Complete trials of this sweep's other studies whose values are means over the same rounds."""
        for other in optuna.get_all_study_summaries(self._storage):
            if other.study_name != self._study.study_name and self._marks.items() <= other.user_attrs.items():
                study = optuna.load_study(study_name=other.study_name, storage=self._storage)
                yield from (t for t in _read(study.get_trials(deepcopy=False)) if t.is_complete)

    def _refresh(self) -> None:
        """Look at what is new, and at what was running when last seen."""
        trials = self._study.get_trials(deepcopy=False)
        changed = [trials[number] for number in sorted(self._open)] + trials[self._num_seen :]
        self._open = {t.number for t in changed if not t.state.is_finished()}
        self._num_seen = len(trials)
        for trial in _read(changed):
            known = self._known.get(trial.identity)
            # of two dispatchers that asked the same at the same moment, the one that has a result is right
            if known is None or known.number == trial.number or not known.is_complete:
                self._known[trial.identity] = trial

    def _add(
        self, configuration: Configuration, dimensions: Mapping[str, Dimension], *, state: OptunaState, value: float | None
    ) -> None:
        params = {path: str(v) if path == "row" else v for path, v in configuration.params.items()}
        self._study.add_trial(
            optuna.trial.create_trial(
                state=state,
                value=value,
                params={path: dimensions[path].encode(v) for path, v in params.items()},
                distributions={path: dimensions[path].distribution for path in params},
                user_attrs={"owner": self._owner, "configuration": _describe(configuration)},
            )
        )

    def _end(self, known: StudyTrial, ended: OptunaState, value: float | None, *, is_failed: bool) -> None:
        if is_failed:
            trial_id = self._storage.get_trial_id_from_study_id_trial_number(self._study._study_id, known.number)
            try:
                self._storage.set_trial_user_attr(trial_id, "is_failed", True)
            except optuna.exceptions.UpdateFinishedTrialError:
                return  # another dispatcher has told it
        told = value if ended is OptunaState.COMPLETE else None
        _tell_unless_ended(self._study, known.number, told, state=ended)


def _tell_unless_ended(study: optuna.Study, number: int, value: float | None, *, state: OptunaState) -> None:
    """Another dispatcher may tell the same at the same moment; Optuna looks first and writes later."""
    with suppress(optuna.exceptions.UpdateFinishedTrialError):
        study.tell(number, value, state=state, skip_if_finished=True)


def _describe(configuration: Configuration) -> dict[str, Any]:
    return {"id": identify(configuration), "params": dict(configuration.params)}


def _read(trials: Iterable[FrozenTrial]) -> Iterator[StudyTrial]:
    """Trials that were signed; others are repeated proposals, or were never finished being asked."""
    for trial in trials:
        if (described := trial.user_attrs.get("configuration")) is not None:
            yield StudyTrial(
                number=trial.number,
                identity=described["id"],
                params=described["params"],
                state=trial.state,
                value=trial.value if trial.state is OptunaState.COMPLETE else None,
                owner=trial.user_attrs.get("owner", ""),
                is_failed=bool(trial.user_attrs.get("is_failed")),
            )


def _is_left_behind(trial: FrozenTrial, is_dead: Callable[[str], bool]) -> bool:
    if owner := trial.user_attrs.get("owner"):
        return is_dead(owner)
    assert trial.datetime_start is not None, "Optuna notes it when a trial is asked"
    return datetime.datetime.now() - trial.datetime_start > datetime.timedelta(seconds=NO_OWNER_S)
