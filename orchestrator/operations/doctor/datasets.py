"""Checks the data sets of this machine: what is in ORCHESTRATE_DATA, and what the ledger's sweeps need of it."""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from orchestrator.errors import DataError, SpecError, TrackingError
from orchestrator.operations.doctor.findings import Finding, error, ok, warning
from orchestrator.planning.preflight import DATA_FOLDER, locate_source
from orchestrator.planning.shared import read_shared_plan
from orchestrator.state.disk import GB
from orchestrator.state.home import Home
from orchestrator.state.ledger import Ledger
from orchestrator.state.units import format_gb
from trainers.config import DataConfig

SHOWN = 8


def check_data(home: Home) -> Iterator[Finding]:
    """Check names only; `orchestrate worker` verifies the fingerprint."""
    if named := os.environ.get(DATA_FOLDER):
        yield _check_folder(Path(named).expanduser().absolute())
    else:
        yield ok("data", f"{DATA_FOLDER} is not set: data sets are expected at the paths in the sweep files")
    if home.storage:
        yield from _find_missing(home)


def _check_folder(folder: Path) -> Finding:
    if not folder.is_dir():
        return error("data", f"{folder} is no folder", f"Set {DATA_FOLDER} to the folder with this machine's data sets.")
    try:
        entries = sorted(folder.iterdir())
        found = [p for p in entries if p.suffix == ".npz" or ((p / "images").is_dir() and (p / "masks").is_dir())]
    except OSError as failure:
        return error("data", f"{folder}: {failure.strerror}", "Make it readable for the user who runs sweeps.")
    if not found:
        return warning(
            "data", f"{folder} holds no .npz and no folder with images/ and masks/", f"Is {DATA_FOLDER} set to the right folder?"
        )
    shown = [f"{path.name} ({format_gb(path.stat().st_size / GB)})" if path.is_file() else path.name for path in found[:SHOWN]]
    return ok("data", f"{folder}: {', '.join(shown)}{', ...' if len(found) > SHOWN else ''}")


def _find_missing(home: Home) -> Iterator[Finding]:
    """Sweeps of a shared ledger that this machine cannot join."""
    plans = []
    try:
        ledger = Ledger(home.ledger_url)
        for sweep in ledger.roster.sweeps():
            with suppress(SpecError):  # of another version: `orchestrate worker` reports it
                plans.append(read_shared_plan(ledger, sweep))
        ledger.close()
    except TrackingError:
        return  # the ledger's own check reports it
    for plan in filter(None, plans):
        for known in plan.data:
            try:
                locate_source(DataConfig.model_validate_json(known.source))
            except DataError as failure:
                yield warning(f"data of {plan.spec.name}", str(failure), "This machine cannot join the sweep.")
