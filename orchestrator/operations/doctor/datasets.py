"""The data sets of this machine: what lies in ORCHESTRATE_DATA, and what the sweeps of the ledger want of it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from orchestrator.errors import DataError, SpecError, TrackingError
from orchestrator.operations.doctor.findings import Finding, doubtful, well, wrong
from orchestrator.planning.preflight import DATA_FOLDER, locate_source
from orchestrator.planning.shared import SharedPlan, read_shared_plan
from orchestrator.state.disk import GB
from orchestrator.state.home import Home
from orchestrator.state.ledger import Ledger
from orchestrator.state.units import format_gb
from trainers.config import DataConfig

SHOWN = 8


def check_data(home: Home) -> Iterator[Finding]:
    """Names only: whether a set is the very one that a sweep was begun with, `orchestrate worker` verifies by its fingerprint."""
    named = os.environ.get(DATA_FOLDER)
    if named:
        yield _look_into(Path(named).expanduser().absolute())
    else:
        yield well("data", f"{DATA_FOLDER} is not set: data sets are looked for where sweeps say they are")
    if home.storage:
        yield from _find_lacking(home, named)


def _look_into(folder: Path) -> Finding:
    if not folder.is_dir():
        return wrong("data", f"{folder} is no folder", f"Let {DATA_FOLDER} name the one with this machine's data sets.")
    try:
        found = [path for path in sorted(folder.iterdir()) if _is_data_set(path)]
    except OSError as error:
        return wrong("data", f"{folder}: {error.strerror}", "Let it be read by whoever runs sweeps.")
    if not found:
        return doubtful(
            "data", f"{folder} holds no .npz and no folder with images/ and masks/", f"Is it what {DATA_FOLDER} is to name?"
        )
    shown = [f"{path.name} ({format_gb(path.stat().st_size / GB)})" if path.is_file() else path.name for path in found[:SHOWN]]
    return well("data", f"{folder}: {', '.join(shown)}{', ...' if len(found) > SHOWN else ''}")


def _is_data_set(path: Path) -> bool:
    return path.suffix == ".npz" or ((path / "images").is_dir() and (path / "masks").is_dir())


def _find_lacking(home: Home, folder: str | None) -> Iterator[Finding]:
    """The sweeps of a shared ledger that could not be joined from here."""
    try:
        ledger = Ledger(home.ledger_url)
        plans = [plan for sweep in ledger.roster.sweeps() if (plan := _read(ledger, sweep)) is not None]
        ledger.close()
    except TrackingError:
        return  # told by those who look at the ledger
    for plan in plans:
        for known in plan.data:
            try:
                locate_source(DataConfig.model_validate_json(known.source), folder)
            except DataError as error:
                yield doubtful(f"data of {plan.spec.name}", str(error), "Until then this machine cannot join the sweep.")


def _read(ledger: Ledger, sweep: str) -> SharedPlan | None:
    try:
        return read_shared_plan(ledger, sweep)
    except SpecError:
        return None  # another version's; whoever joins it is told
