"""Trials that another machine has finished: found by their keys on the server, entered into this machine's trial folders."""

from __future__ import annotations

import shutil
from collections.abc import Iterable

from orchestrator.home import Home
from orchestrator.tracking.place import Place
from orchestrator.tracking.runs import RunReader
from orchestrator.trial import TrialFolder, TrialSpec

FILES = ("confusions.npz", "result.json")
"""What ranking and the search need, the result last; predictions and weights are fetched when they are asked for."""


def adopt_finished(home: Home, specs: Iterable[TrialSpec]) -> list[str]:
    """Fetch the results of those trials that are COMPLETE on the server; returns their keys.

    Raises:
        TrackingError: the server cannot be reached, or lacks a file of a finished trial.
    """
    by_key = {spec.key: spec for spec in specs}
    reader = RunReader(Place.of(home))
    found = reader.find_finished(by_key)
    for key, run in found.items():
        folder = TrialFolder(home.trial_folder(key))
        folder.create(by_key[key])
        for name in FILES:
            fetched = reader.fetch(run, name, home.cache / "files")
            if fetched.parent != folder.path:
                shutil.copyfile(fetched, folder.path / f".{name}.adopted")
                (folder.path / f".{name}.adopted").replace(folder.path / name)
    return list(found)
