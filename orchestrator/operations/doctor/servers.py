"""The ledger's database and the tracking server: there, open to us, to be written to, of our time and version."""

from __future__ import annotations

import importlib.metadata
import os
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from orchestrator.errors import TrackingError
from orchestrator.operations.doctor.findings import Finding, doubtful, well, wrong
from orchestrator.state.home import Home
from orchestrator.state.ledger import Ledger
from orchestrator.tracking.location import TrackingLocation

if TYPE_CHECKING:
    from orchestrator.tracking import health as probe

SKEW_S = 5.0
"""By which clocks may differ: leases go by the database's, but times of runs are shown as each machine has them."""

ITSELF = ("localhost", "127.0.0.1", "::1", "[::1]")


def check_storage(home: Home) -> Iterator[Finding]:
    """The database of ledger and search."""
    if home.storage is None and not (home.root / "ledger.db").exists():
        yield well("ledger", f"none yet; one will be made in {home.root}, for this machine alone")
        return
    try:
        ledger = Ledger(home.ledger_url)
        now_s, num_sweeps = ledger.now_s(), len(ledger.roster.sweeps())
        ledger.close()
        _open_search(home)
    except TrackingError as error:
        yield wrong("ledger", str(error), "Is ORCHESTRATE_STORAGE as the server's .env says, and its port open to this machine?")
        return
    where = "PostgreSQL" if home.storage else f"{home.root}, for this machine alone"
    yield well("ledger", f"{where}: open, {num_sweeps} sweeps")
    if home.storage:
        yield _judge_clock("the database's", now_s - time.time())
    if home.storage and home.tracking is None:
        yield doubtful(
            "tracking",
            "ORCHESTRATE_STORAGE is shared, and MLFLOW_TRACKING_URI is not set: other machines would not find this one's results",
            "Set MLFLOW_TRACKING_URI to the team's server.",
        )


def _open_search(home: Home) -> None:
    """It makes tables of its own, for which an account may lack the right."""
    if home.optuna_url is not None:
        from orchestrator.search.storage import open_storage  # optuna takes a second

        open_storage(home.optuna_url)


def _judge_clock(whose: str, ahead_s: float) -> Finding:
    subject = f"clock, {whose}"
    if abs(ahead_s) <= SKEW_S:
        return well(subject, "as this machine's")
    told = f"{abs(ahead_s):.0f} s {'ahead of' if ahead_s > 0 else 'behind'} this machine's"
    return doubtful(subject, told, "Keep both by NTP (`timedatectl`): runs are shown with the times of the machine they ran on.")


def check_tracking(home: Home) -> Iterator[Finding]:
    """MLflow: the first thing that is wrong hides the rest."""
    from orchestrator.tracking import health as probe  # imports mlflow, which takes seconds

    location = TrackingLocation.of(home)
    if location.is_database:
        yield _open_database(home, location)
        return
    try:
        version = probe.ask_version(location)
        entered = probe.ask_experiments(location)
        if (refusal := _judge_entry(location, entered)) is not None:
            yield refusal
            return
        yield from _judge_welcome(location, version, importlib.metadata.version("mlflow"))
        yield _judge_files(location, probe.try_files(location))
    except TrackingError as error:
        yield wrong("tracking", str(error), "Is the server up, MLFLOW_TRACKING_URI right, and its port open to this machine?")
        return
    if entered.ahead_s is not None:
        yield _judge_clock("the tracking server's", entered.ahead_s)


def _open_database(home: Home, location: TrackingLocation) -> Finding:
    if home.tracking is None and not home.mlflow_db.exists():
        return well("tracking", f"no records yet; they will be kept in {home.root}, for this machine alone")
    from orchestrator.tracking.client import connect

    try:
        connect(location)
    except TrackingError as error:
        return wrong("tracking", str(error), "Move the file away to begin a new one: `orchestrate sync` fills it again.")
    return well("tracking", f"{location}: open")


def _judge_entry(location: TrackingLocation, entered: probe.ServerAnswer) -> Finding | None:
    """Why we are not let in; None where we are."""
    name = os.environ.get("MLFLOW_TRACKING_USERNAME")
    if entered.status == 401 and name is None:
        return wrong(
            "login", f"{location} wants one", "Set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD (the server's .env)."
        )
    if entered.status == 401:
        return wrong("login", f"{location} refuses that of {name!r}", "Is MLFLOW_TRACKING_PASSWORD what the server's .env says?")
    if entered.status == 403 and "Host" in entered.text:
        host = urlsplit(location.uri).hostname
        return wrong(
            "login",
            f"{location} does not answer to the name {host}",
            f"Add {host} to PUBLIC_HOST in the server's .env; then `up -d`.",
        )
    if entered.status == 403:
        return wrong("login", f"{location} forbids {name!r} to read: {entered.text}", "Have MLflow's admin allow it.")
    if entered.status == 404:
        return wrong(
            "tracking", f"{location} answers, but not as MLflow does", "Does MLFLOW_TRACKING_URI name MLflow's port and path?"
        )
    if entered.status != 200:
        told = f"{location} answers with {entered.status}: {entered.text}"
        return wrong("tracking", told, "Look at its log: `docker compose logs mlflow database`.")
    return None


def _judge_welcome(location: TrackingLocation, version: probe.ServerAnswer, ours: str) -> Iterator[Finding]:
    theirs = version.text if version.status == 200 else "untold"
    told = f"{location}: MLflow {theirs}, here {ours}"
    if theirs.split(".")[:1] != ours.split(".")[:1]:
        yield wrong("tracking", told, "Install the same MLflow on both.")
    elif theirs.split(".")[:2] != ours.split(".")[:2]:
        yield doubtful("tracking", told, "Other versions mostly understand each other; the same one on both is tested.")
    else:
        yield well("tracking", told)
    name = os.environ.get("MLFLOW_TRACKING_USERNAME")
    if name is not None:
        yield well("login", f"as {name}")
    elif urlsplit(location.uri).hostname not in ITSELF and not urlsplit(location.uri).username:
        yield doubtful(
            "login", "none is asked for: whoever reaches the server reads and removes", "docker-compose.yml has one with a login."
        )


def _judge_files(location: TrackingLocation, tried: probe.ServerAnswer) -> Finding:
    if tried.status == 200:
        return well("files", "written and read through the server")
    if tried.status == 503:
        return doubtful(
            "files", f"{location} does not hand them through", "Each machine has to reach the artifact store by itself."
        )
    advice = "Is the disk of the server full, or its volume not writable? `docker compose logs mlflow` says more."
    return wrong("files", f"{location} answers with {tried.status}: {tried.text}", advice)
