"""A cache of a server's runs on this machine, one file per experiment: only changed runs are requested."""

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock

from orchestrator.state.files import replacing
from orchestrator.tracking.location import TrackingLocation
from orchestrator.tracking.reader.row import RunRow
from orchestrator.tracking.reader.source import RunSource
from orchestrator.tracking.tags import Tag, list_prefixes

INDEX_VERSION = 3

SKEW_S = 900.0
"""By how much clocks of other machines may differ from this one's."""

SAVE_S = 300.0
"""After which an unchanged file is written again: the next read then has to cover a shorter period."""

WHOLE_S = 6 * 3600.0
"""After which everything is read again: changes made by hand on MLflow's page leave no mark."""


@dataclass
class _Cached:
    """The cached runs of an experiment, by id. read_s: time of the last read; whole_s: of the last read of everything."""

    rows: dict[str, RunRow] = field(default_factory=dict)
    deleted: set[str] = field(default_factory=set)
    read_s: float = 0.0
    whole_s: float = 0.0
    saved_s: float = 0.0
    """The read_s in its file."""
    is_new: bool = False
    """Whether it differs from its file."""


class RunIndex:
    """The runs of experiments: from the cache, updated by the server. Several processes may share one folder."""

    def __init__(self, location: TrackingLocation, source: RunSource, folder: Path) -> None:
        self._source = source
        self._folder = folder / hashlib.sha256(location.uri.encode()).hexdigest()[:12]

    def read(self, experiments: Sequence[str]) -> list[RunRow]:
        """Every run of these experiments that is not deleted; raises what the source raises."""
        self._folder.mkdir(parents=True, exist_ok=True)
        with FileLock(self._folder / "lock"):
            now_s = time.time()
            known = {experiment: self._load(experiment, now_s) for experiment in experiments}
            rows = [row for found in known.values() for row in found.rows.values()]
            newest = max(rows, key=lambda row: row.tags.get(Tag.WRITTEN, ""), default=None)
            if newest is not None and self._source.find_run(newest.run_id) is None:  # gone, as after a restored backup
                known = {experiment: _Cached() for experiment in experiments}
            self._read_whole({experiment: found for experiment, found in known.items() if not found.read_s}, now_s)
            self._read_new({experiment: found for experiment, found in known.items() if found.read_s < now_s}, now_s)
            for experiment, found in known.items():
                if found.is_new or now_s - found.saved_s > SAVE_S:
                    self._save(experiment, found)
        return [row for found in known.values() for row in found.rows.values()]

    def _read_whole(self, known: dict[str, _Cached], now_s: float) -> None:
        if not known:
            return
        for row in self._source.search(list(known)):
            known[row.experiment_id].rows[row.run_id] = row
        for row in self._source.search(list(known), is_deleted=True):
            known[row.experiment_id].deleted.add(row.run_id)
        for found in known.values():
            found.read_s = found.whole_s = now_s
            found.is_new = True

    def _read_new(self, known: dict[str, _Cached], now_s: float) -> None:
        if not known:
            return
        since_s = min(found.read_s for found in known.values())
        prefixes = list_prefixes(since_s - SKEW_S, now_s + SKEW_S)
        assert prefixes is not None, "everything is read again before that"
        for prefix in prefixes:
            for row in self._source.search(list(known), f"tags.{Tag.WRITTEN} LIKE '{prefix}%'"):
                found = known[row.experiment_id]
                found.is_new |= found.rows.get(row.run_id) != row
                found.rows[row.run_id] = row
        deleted: dict[str, set[str]] = {experiment: set() for experiment in known}
        for row in self._source.search(list(known), is_deleted=True):
            deleted[row.experiment_id].add(row.run_id)
        for experiment, found in known.items():
            for run_id in found.deleted - deleted[experiment]:
                if (restored := self._source.find_run(run_id)) is not None:
                    found.rows[run_id] = restored
            for run_id in deleted[experiment]:
                found.rows.pop(run_id, None)
            found.is_new |= found.deleted != deleted[experiment]
            found.deleted, found.read_s = deleted[experiment], now_s

    def _load(self, experiment: str, now_s: float) -> _Cached:
        """The experiment's file; an empty cache if it is missing, damaged, too old or of another version."""
        try:
            document: dict[str, Any] = json.loads(self._file(experiment).read_bytes())
            if document["version"] != INDEX_VERSION or not 0 <= now_s - document["whole_s"] < WHOLE_S:
                return _Cached()
            rows = {row["run_id"]: RunRow(**row) for row in document["rows"]}
            return _Cached(rows, set(document["deleted"]), document["read_s"], document["whole_s"], saved_s=document["read_s"])
        except (OSError, ValueError, KeyError, TypeError):
            return _Cached()

    def _save(self, experiment: str, known: _Cached) -> None:
        rows = [vars(row) for row in known.rows.values()]
        document = {"version": INDEX_VERSION, "read_s": known.read_s, "whole_s": known.whole_s, "deleted": sorted(known.deleted)}
        with replacing(self._file(experiment)) as scratch:
            scratch.write_text(json.dumps(document | {"rows": rows}), encoding="utf-8")

    def _file(self, experiment: str) -> Path:
        return self._folder / f"{experiment}.json"
