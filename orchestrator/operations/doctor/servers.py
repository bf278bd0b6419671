"""Checks the ledger's database and the tracking server: reachable, accessible, writable, same time and version."""

from __future__ import annotations

import importlib.metadata
import os
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from orchestrator.errors import TrackingError
from orchestrator.operations.doctor.findings import Finding, error, ok, warning
from orchestrator.state.home import Home
from orchestrator.state.ledger import Ledger
from orchestrator.state.units import format_count
from orchestrator.tracking.location import TrackingLocation

if TYPE_CHECKING:
    from orchestrator.tracking import health

SKEW_S = 5.0
"""By how much clocks may differ: leases use the database's clock, but runs show the time of their machine."""

LOCAL_HOSTS = ("localhost", "127.0.0.1", "::1", "[::1]")


def check_storage(home: Home) -> Iterator[Finding]:
    """Check the database of ledger and search."""
    if home.storage is None and not (home.root / "ledger.db").exists():
        yield ok("ledger", f"none yet; the first sweep creates one in {home.root}, for this machine only")
        return
    try:
        ledger = Ledger(home.ledger_url)
        now_s, num_sweeps = ledger.now_s(), len(ledger.roster.sweeps())
        ledger.close()
        if home.storage is not None:
            from orchestrator.search.storage import open_storage  # imports optuna, which takes a second

            open_storage(home.storage)  # creates Optuna's tables, for which the account may lack permission
    except TrackingError as failure:
        yield error("ledger", str(failure), "Does ORCHESTRATE_STORAGE match the server's .env? Is its port open?")
        return
    where = "PostgreSQL" if home.storage else f"{home.root}, for this machine only"
    yield ok("ledger", f"{where}: works, {format_count(num_sweeps, 'sweep')}")
    if home.storage:
        yield _check_clock("the database's", now_s - time.time())
    if home.storage and home.tracking is None:
        yield warning(
            "tracking",
            "ORCHESTRATE_STORAGE is shared, but MLFLOW_TRACKING_URI is not set: other machines do not find this one's results",
            "Set MLFLOW_TRACKING_URI to the team's server.",
        )


def _check_clock(whose: str, ahead_s: float) -> Finding:
    subject = f"clock, {whose}"
    if abs(ahead_s) <= SKEW_S:
        return ok(subject, "same as this machine's")
    found = f"{abs(ahead_s):.0f} s {'ahead of' if ahead_s > 0 else 'behind'} this machine's"
    return warning(subject, found, "Synchronize both by NTP (`timedatectl`): runs show the time of the machine they ran on.")


def check_tracking(home: Home) -> Iterator[Finding]:
    """Check MLflow; stops at the first error."""
    from orchestrator.tracking import health  # imports mlflow, which takes seconds

    location = TrackingLocation.of(home)
    if location.is_database:
        yield _open_database(home, location)
        return
    try:
        version = health.ask(location, health.VERSION)
        answer = health.ask(location, health.EXPERIMENTS)
        if (refusal := _check_login(location, answer)) is not None:
            yield refusal
            return
        yield from _check_version(location, version, importlib.metadata.version("mlflow"))
        yield _check_files(location, health.try_files(location))
    except TrackingError as failure:
        yield error("tracking", str(failure), "Is the server up, MLFLOW_TRACKING_URI right, and its port open to this machine?")
        return
    if answer.ahead_s is not None:
        yield _check_clock("the tracking server's", answer.ahead_s)


def _open_database(home: Home, location: TrackingLocation) -> Finding:
    if home.tracking is None and not home.mlflow_db.exists():
        return ok("tracking", f"no records yet; the first sweep creates them in {home.root}, for this machine only")
    from orchestrator.tracking.client import connect

    try:
        connect(location)
    except TrackingError as failure:
        return error("tracking", str(failure), "Move the file away and run `orchestrate sync`: it writes a new one.")
    return ok("tracking", f"{location}: works")


def _check_login(location: TrackingLocation, answer: health.ServerAnswer) -> Finding | None:
    """Why the login does not work; None if it does."""
    name, host = os.environ.get("MLFLOW_TRACKING_USERNAME"), urlsplit(location.uri).hostname
    match answer.status:
        case 200:
            return None
        case 401 if name is None:
            advice = "Set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD (see the server's .env)."
            return error("login", f"{location} requires one", advice)
        case 401:
            return error("login", f"{location} refuses user {name!r}", "Does MLFLOW_TRACKING_PASSWORD match the server's .env?")
        case 403 if "Host" in answer.text:
            advice = f"Add {host} to PUBLIC_HOST in the server's .env; then `up -d`."
            return error("login", f"{location} does not accept requests under the name {host}", advice)
        case 403:
            return error("login", f"{location} does not let {name!r} read: {answer.text}", "Ask MLflow's administrator.")
        case 404:
            advice = "Does MLFLOW_TRACKING_URI have MLflow's port and path?"
            return error("tracking", f"{location} answers, but is not MLflow", advice)
    advice = "See its log: `docker compose logs mlflow database`."
    return error("tracking", f"{location} answers with {answer.status}: {answer.text}", advice)


def _check_version(location: TrackingLocation, version: health.ServerAnswer, ours: str) -> Iterator[Finding]:
    theirs = version.text if version.status == 200 else "of unknown version"
    versions = f"{location}: MLflow {theirs}, here {ours}"
    if theirs.split(".")[:1] != ours.split(".")[:1]:
        yield error("tracking", versions, "Install the same MLflow version on both.")
    elif theirs.split(".")[:2] != ours.split(".")[:2]:
        yield warning("tracking", versions, "Different versions usually work together; only equal ones are tested.")
    else:
        yield ok("tracking", versions)
    name = os.environ.get("MLFLOW_TRACKING_USERNAME")
    if name is not None:
        yield ok("login", f"as {name}")
    elif urlsplit(location.uri).hostname not in LOCAL_HOSTS and not urlsplit(location.uri).username:
        yield warning("login", "none is required: everybody can read and delete", "docker-compose.yml has one with a login.")


def _check_files(location: TrackingLocation, tried: health.ServerAnswer) -> Finding:
    if tried.status == 200:
        return ok("files", "can be written and read through the server")
    if tried.status == 503:
        return warning("files", f"{location} does not proxy them", "Each machine must reach the artifact store itself.")
    advice = "Is the disk of the server full, or its volume not writable? `docker compose logs mlflow` says more."
    return error("files", f"{location} answers with {tried.status}: {tried.text}", advice)
