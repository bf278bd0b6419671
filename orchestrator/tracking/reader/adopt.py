"""Finds trials that another machine has finished, and copies their results into this machine's trial folders."""

import logging
import shutil
from collections.abc import Iterable

from orchestrator.state.files import replacing
from orchestrator.state.home import Home
from orchestrator.state.trial.folder import ADOPTED, OF_ATTEMPTS, TrialFile, TrialFolder, is_worked_on
from orchestrator.state.trial.records import TrialSpec
from orchestrator.tracking.location import TrackingLocation
from orchestrator.tracking.reader.runs import RunReader

_log = logging.getLogger(__name__)


def adopt_finished(home: Home, specs: Iterable[TrialSpec]) -> list[str]:
    """Fetch the results of trials that are COMPLETE on the server; returns their keys.

    Skips trials that a process of this machine works on, and those whose files are missing on the server: they are trained.

    Raises:
        TrackingError: the server cannot be reached.
        TrialError: a folder holds another trial.
    """
    by_key = {spec.key: spec for spec in specs}
    reader = RunReader(TrackingLocation.of(home))
    adopted: list[str] = []
    for key, run in reader.find_finished(by_key).items():
        folder = TrialFolder(home.trial_folder(key))
        if is_worked_on(folder):
            continue
        found = {name: reader.find_file(run, name, home.cache / "files", from_folder=False) for name in ADOPTED}
        # earlier versions sent no progress; only pruners and charts want it
        missing = [name for name, path in found.items() if path is None and name != TrialFile.PROGRESS]
        if missing:
            _log.warning("%s is COMPLETE on the server, but its %s is missing there: it is trained again", run.name, missing[0])
            continue
        folder.create(by_key[key])
        # mirror.json too: without it the mirror refers to the run that the files come from. It goes first: after a kill it would
        # say how much of a file was sent that is written anew.
        for name in sorted(OF_ATTEMPTS, key=lambda name: name is not TrialFile.SENT):
            (folder.path / name).unlink(missing_ok=True)
        for name, path in found.items():
            if path is not None:
                with replacing(folder.path / name) as scratch:
                    shutil.copyfile(path, scratch)
        adopted.append(key)
    return adopted
