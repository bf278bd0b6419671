"""Writes the message about a sweep's end and sends it by mail or chat; the only module that imports apprise, and only if used.

An address may hold a password or a token. Messages and errors therefore show only where it is written and the name of its
service, and the logs of Apprise and its libraries are dropped.
"""

from __future__ import annotations

import logging
import os
import re
import socket
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from orchestrator.dispatch.loop.ports import SweepOutcome
from orchestrator.dispatch.summary import SweepReport, count_states
from orchestrator.errors import OrchestrateError, SpecError, redact
from orchestrator.state.trial.records import OBJECTIVE, TrialState
from orchestrator.state.units import format_duration
from trainers.config import suggest

if TYPE_CHECKING:
    from apprise import Apprise

    from orchestrator.spec import SweepSpec
    from orchestrator.state.home import Home


VARIABLE = "ORCHESTRATE_NOTIFY"
"""Environment variable: addresses, separated by spaces, that are notified about every sweep."""

TIMEOUT_S = 20.0
"""Limit per service: the sweep has ended, and somebody may be waiting for its exit code."""

_NAMED = re.compile(r"\$\{(\w+)\}")
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9]*)://")
_LOGGERS = ("apprise", "urllib3", "requests", "paho", "slixmpp")


Kind = Literal["success", "warning", "failure"]
"""Apprise's kinds of messages."""


@dataclass(frozen=True)
class Message:
    """A notification."""

    title: str
    body: str
    kind: Kind


MAX_REASONS = 5
"""Maximum number of failed trials in a message; the rest are counted."""


def describe_end(report: SweepReport, home: Home) -> Message:
    """The message about a sweep that ended, was interrupted or halted."""
    outcome = report.outcome
    lines = [f"{count_states(outcome.trials)} in {format_duration(outcome.wall_s)}"]
    done = (trial for trial in outcome.trials if trial.state in (TrialState.COMPLETE, TrialState.CACHED))
    scored = [(trial.result.metrics[OBJECTIVE], trial) for trial in done if trial.result and OBJECTIVE in trial.result.metrics]
    if scored:
        miou, best = max(scored, key=lambda pair: pair[0])
        lines.append(f"best: {best.spec.name}, {OBJECTIVE} {miou:.4f}")
    lines += [line for line in (report.note, outcome.halted) if line]
    failed = [f"failed: {one.spec.name}: {one.reason}" for one in outcome.trials if one.state is TrialState.FAILED]
    lines += failed[:MAX_REASONS] + ([f"and {len(failed) - MAX_REASONS} more"] if len(failed) > MAX_REASONS else [])
    if outcome.interrupted or outcome.halted:
        lines.append("The same command resumes it.")
    how, kind = _judge(outcome, num_failed=len(failed))
    return _write(report.sweep, how, lines, kind, home)


def describe_failure(sweep: str, error: BaseException, home: Home) -> Message:
    """The message about a sweep that ended with an error or an interruption."""
    if isinstance(error, KeyboardInterrupt | SystemExit):
        return _write(sweep, "interrupted", ["It was interrupted before its trials ended."], "warning", home)
    text = str(error) if isinstance(error, OrchestrateError) else f"{type(error).__name__}: {error}"
    return _write(sweep, "failed", [text], "failure", home)


def _judge(outcome: SweepOutcome, *, num_failed: int) -> tuple[str, Kind]:
    if outcome.interrupted:
        return "interrupted", "warning"
    if outcome.halted:
        return "halted", "failure"
    if num_failed:
        return f"ended, {num_failed} of {len(outcome.trials)} trials failed", "warning"
    return "done", "success"


def _write(sweep: str, how: str, lines: list[str], kind: Kind, home: Home) -> Message:
    records = home.tracking or f"{socket.gethostname()}:{home.root}"
    where = f"Where to look: orchestrate report {sweep}; {records}"
    return Message(f"{sweep}: {how}", redact("\n".join([*lines, where])), kind)


@dataclass(frozen=True)
class Service:
    """One address, ready to be used. where: the place in the sweep file or environment, which may be shown."""

    where: str
    name: str
    sender: Apprise

    def send(self, message: Message) -> str | None:
        """Send a message; returns what failed, without the address, which fails nothing else."""
        with _silence():
            try:
                is_sent = bool(self.sender.notify(title=message.title, body=message.body, notify_type=message.kind))
            except Exception as error:  # its text may show the address
                return f"{self.where} ({self.name}) could not be notified: {type(error).__name__}."
        return None if is_sent else f"{self.where} ({self.name}) could not be notified: refused or unreachable."


def open_services(spec: SweepSpec, environment: Mapping[str, str] = os.environ) -> list[Service]:
    """Open the addresses of the sweep's ``notify`` and of ORCHESTRATE_NOTIFY, each once; nothing is sent yet.

    Raises:
        SpecError: an address names a variable that is not set, or Apprise cannot use it.
    """
    addresses = dict.fromkeys((environment.get(VARIABLE) or "").split(), f"the environment's {VARIABLE}")
    for i, written in enumerate(spec.notify):
        where = f"{spec.document.where(('notify', i))}: notify[{i}]"
        addresses |= dict.fromkeys(_expand(written, where, environment).split(), where)
    return [_open(address, where) for address, where in addresses.items()]


def _expand(written: str, where: str, environment: Mapping[str, str]) -> str:
    """Replace the variables in an address by their values."""
    for name in _NAMED.findall(written):
        if not environment.get(name):
            raise SpecError(f"{where} names ${{{name}}}, which is not set in the environment. Set {name}, or remove the entry.")
    return _NAMED.sub(lambda found: environment[found[1]], written)


def _open(address: str, where: str) -> Service:
    import apprise

    asset = apprise.AppriseAsset(
        app_id="orchestrate", app_desc="orchestrate", async_mode=False, service_timeout=TIMEOUT_S, storage_mode="memory"
    )
    with _silence():
        try:
            plugin = apprise.Apprise.instantiate(address, asset=asset, suppress_exceptions=True)
        except Exception:  # its message would show the address
            plugin = None
    if plugin is None:
        raise SpecError(
            f"{where} is not an address that Apprise can use{_explain(address)} (not shown here: it may hold a password)."
        )
    sender = apprise.Apprise(asset=asset)
    sender.add(plugin)
    return Service(where, str(plugin.service_name), sender)


def _explain(address: str) -> str:
    """What is wrong with it, as far as its scheme shows."""
    found = _SCHEME.match(address)
    if found is None:
        return ": it does not begin with a service, such as mailto:// or slack://"
    import apprise

    with _silence():
        described = apprise.Apprise().details()["schemas"]
    known = sorted({scheme for entry in described for kind in ("protocols", "secure_protocols") for scheme in entry[kind] or ()})
    scheme = found[1].lower()
    if scheme in known:
        return f": something after {scheme}:// is missing or wrong"
    return f": {scheme!r} is not one of its {len(known)} services.{suggest(scheme, known)}"


@contextmanager
def _silence() -> Iterator[None]:
    """Drop logs and warnings of the libraries below: they show addresses, or are about unused plugins."""
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    # loggers without a level use their ancestor's, so that urllib3 also silences urllib3.connectionpool
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL + 1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
