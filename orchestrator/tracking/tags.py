"""Every tag that `orchestrate` reads or writes by name, and what a sweep records of its trials and ensembles with them.

Each fact of a result or an attempt also becomes a tag, ``system.<fact>``; the list names only those that are read.

Old runs must stay readable, so the values below never change. Imports no mlflow: the dispatcher makes these records.
"""

import re
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from orchestrator.state.trial.records import FLIPS

_MAX_NAME = 250
_WEIGHT, _FLIPS = "weight.", f"{FLIPS}."
"""Prefixes of an ensemble's parameters; the member's key follows."""

_MARK_STEPS = ((600, len("2026-11-22T18:0")), (3600, len("2026-11-22T18")), (86400, len("2026-11-22")))
"""Seconds that the first characters of a mark stand for, and how many characters."""
_MAX_PREFIXES = 31


class RunKind(StrEnum):
    """What a run records: the value of ``Tag.KIND``."""

    TRIAL = "trial"
    ENSEMBLE = "ensemble"


class Tag(StrEnum):
    """The names of all tags, grouped by what carries them."""

    # Every run.
    KIND = "kind"  # trial or ensemble, a RunKind
    SWEEP = "sweep"  # name of the sweep that the run belongs to
    CURRENT = "current"  # ``true`` on the one run that counts, of a trial or an ensemble's row in a sweep; else ``false``
    STATE = "state"  # a TrialState
    REASON = "reason"  # why there is no result, or why the trial waits
    SEED = "seed"  # seed of the trial, or of the ensemble's row
    ROW = "row"  # id of the row in the sweep's table
    REPORTED = "reported"  # value published for that row
    FORMER_ROW = "former_row"  # row of an earlier form of the sweep file
    SCORED_FINGERPRINT = "scored_fingerprint"  # fingerprint of the images, labels and classes that the scores belong to
    WRITTEN = "written"  # when the run was last changed (UTC), which MLflow cannot be asked; see format_mark
    ORCHESTRATE_VERSION = "orchestrate_version"  # version that created the run

    # A trial's run.
    KEY = "key"  # the trial's key
    CONFIGURATION = "configuration"  # id of the trial's configuration
    FOLD = "fold"  # ``index/count`` of a cross-validation fold
    DEVIATION = "deviation"  # how training differed from the configuration, such as a smaller batch; empty where it did not
    SOURCE_FINGERPRINT = "source_fingerprint"  # fingerprint of the data set's source
    SCHEMA_VERSION = "schema_version"  # version of the trial folder's files
    ATTEMPT = "attempt"  # number of the last attempt
    EPOCHS_RUN = "epochs_run"  # epochs trained
    BEST_EPOCH = "best_epoch"  # epoch of the best validation score
    FAILURE = "failure"  # kind of failure; empty after a success
    LAST_FAILURE = "last_failure"  # the last failed attempt, even if a later one succeeded
    FLIPS = FLIPS  # test-time flips whose predictions were kept
    CACHED_FROM = "cached_from"  # id of the run that trained the trial and holds its files
    NUM_PARAMETERS = "system.num_parameters"  # parameters of the model
    LATENCY_MS = "system.latency_ms"  # milliseconds to predict one image

    # Checkpoints of a trial's run.
    CHECKPOINT = "checkpoint"  # JSON: which of the run's files another machine would resume from, until the trial has ended
    RESUMED_FROM = "goes_on_from"  # the checkpoint that the trial was resumed from
    CHECKPOINT_REMOVED = "checkpoint_removed"  # the rule that removed the checkpoint

    # An ensemble's run.
    ENSEMBLE = "ensemble"  # hash of ``ensemble.json``: equal ensembles are one run
    MEMBERS = "members"  # keys of the members, separated by commas
    ROWS = "rows"  # rows of the members, separated by commas
    BEST_MEMBER = "best_member"  # key of the best member
    MEAN = "mean"  # how probabilities are combined, unless as their arithmetic mean
    WIDENING = "widening"  # factor by which intervals of a chosen ensemble's differences exceed those from images alone
    CHOSEN = "chosen_s"  # Unix time of the last choice; the run may have started with an earlier, equal choice

    # A sweep's experiment, and a logged model.
    ORCHESTRATE = "orchestrate"  # ``sweep``: marks the experiments that sweeps made
    KEEP = "keep"  # which checkpoints the sweep keeps
    MODEL_IDENTITY = "orchestrate.identity"  # equal for equal models


SYSTEM = "system."
"""Prefix of tags with facts about machine and model."""

SWEEP_EXPERIMENT = "sweep"
"""Value of ``Tag.ORCHESTRATE``."""


def match_tags(tags: Mapping[Tag, str]) -> str:
    """A filter for MLflow's search: runs with all these tags."""
    return " and ".join(f"tags.{name} = '{value}'" for name, value in tags.items())


def match_trials(key: str | None = None) -> str:
    """A filter for MLflow's search: the runs of all trials, or of one."""
    return match_tags({Tag.KIND: RunKind.TRIAL} | ({} if key is None else {Tag.KEY: key}))


def is_sweep(experiment_tags: Mapping[str, str]) -> bool:
    """Whether an experiment with these tags was made by a sweep."""
    return experiment_tags.get(Tag.ORCHESTRATE) == SWEEP_EXPERIMENT


@dataclass(frozen=True)
class RunLabel:
    """What one sweep calls a trial; other sweeps may share the trial under other names. row: its id in the sweep's table."""

    name: str
    row: str | None = None
    reported: float | None = None

    @property
    def tags(self) -> dict[str, str]:
        """The tags that belong to this sweep alone."""
        return make_row_tags(self.row, self.reported)


def make_row_tags(row: str | None, reported: float | None) -> dict[str, str]:
    """The tags ``row`` and ``reported``, without those that are None."""
    values = {Tag.ROW: row, Tag.REPORTED: None if reported is None else f"{reported:g}"}
    return {name: value for name, value in values.items() if value is not None}


@dataclass(frozen=True)
class EnsembleRecord:
    """What is recorded of an ensemble; records with the same document share one run of their sweep.

    members: key -> weight. document: content of ``ensemble.json``. tags: further ones. files: to upload under their own names.
    reason: why it has no metrics, else None. flips: key -> flips, of members that use other ones than they were validated with.
    """

    name: str
    members: Mapping[str, float]
    metrics: Mapping[str, float]
    document: Mapping[str, Any]
    tags: Mapping[str, str] = field(default_factory=dict)
    files: tuple[Path, ...] = ()
    reason: str | None = None
    flips: Mapping[str, str] = field(default_factory=dict)

    def make_params(self) -> dict[str, str]:
        """The parameters of its run: the number of members, their weights and flips."""
        params = {"num_members": str(len(self.members))}
        params |= {f"{_WEIGHT}{key}": f"{weight:.6g}" for key, weight in self.members.items()}
        return params | {f"{_FLIPS}{key}": flips for key, flips in self.flips.items()}


def read_weights(params: Mapping[str, str]) -> dict[str, float]:
    """Key -> weight of an ensemble's members, from the parameters of its run."""
    return {name.removeprefix(_WEIGHT): float(value) for name, value in params.items() if name.startswith(_WEIGHT)}


def read_flips(params: Mapping[str, str]) -> dict[str, str]:
    """Key -> flips, of an ensemble's members with other flips than they were validated with."""
    return {name.removeprefix(_FLIPS): value for name, value in params.items() if name.startswith(_FLIPS)}


def format_mark(now_s: float) -> str:
    """The value of ``Tag.WRITTEN`` at a moment, such as ``2026-11-22T18:05`` (UTC)."""
    return time.strftime("%Y-%m-%dT%H:%M", time.gmtime(now_s))


def list_prefixes(since_s: float, until_s: float) -> list[str] | None:
    """The few beginnings that all marks of a period have; None if there would be too many.

    MLflow compares tags only by LIKE. So a period is searched for in tens of minutes, hours or days.
    """
    for step_s, length in _MARK_STEPS:
        first, last = int(since_s // step_s), int(until_s // step_s)
        if last - first < _MAX_PREFIXES and (last - first < 12 or step_s == _MARK_STEPS[-1][0]):
            return [format_mark(number * step_s)[:length] for number in range(first, last + 1)]
    return None


def legalize(names: Iterable[str]) -> list[str]:
    """Rewrite unique names so that MLflow accepts them: different names stay different, legal ones unchanged.

    MLflow allows letters, digits, space and ``_-.:/``, in paths without empty parts; a class may be called ``rock (big)``.
    """
    given = list(names)
    spelled = {name: _spell(name) for name in given}
    taken = {name for name in given if spelled[name] == name}
    for name in given:
        if spelled[name] == name:
            continue
        stem, number = spelled[name], 2
        while spelled[name] in taken:
            spelled[name], number = f"{stem[: _MAX_NAME - 8]} {number}", number + 1
        taken.add(spelled[name])
    return [spelled[name] for name in given]


def _spell(name: str) -> str:
    parts = re.sub(r"[^/\w.\- :]", "_", name)[:_MAX_NAME].split("/")
    return "/".join("_" if part in {"", ".", ".."} else part for part in parts)
