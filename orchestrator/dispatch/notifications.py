"""Tells people how a sweep ended, by mail, chat or telephone; the only module that imports apprise, and only when it is used.

An address may hold a password or a token. So no message and no error shows one, only where it was written and the name of its
service; and what Apprise and the libraries below it log is dropped, since their lines hold addresses.
"""

from __future__ import annotations

import logging
import os
import re
import socket
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from orchestrator.errors import OrchestrateError, SpecError, redact
from orchestrator.state.trial.records import OBJECTIVE, TrialState
from orchestrator.state.units import format_duration
from trainers.config import suggest

if TYPE_CHECKING:
    from apprise import Apprise

    from orchestrator.dispatch.summary import SweepReport
    from orchestrator.spec import SweepSpec
    from orchestrator.state.home import Home


VARIABLE = "ORCHESTRATE_NOTIFY"
"""Addresses, with spaces between them, that are told of every sweep."""

TIMEOUT_S = 20.0
"""How long one service may take; the sweep has ended by then, and somebody may be waiting for its exit code."""

_NAMED = re.compile(r"\$\{(\w+)\}")
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9]*)://")
_LOGGERS = ("apprise", "urllib3", "requests", "paho", "slixmpp")


class Kind(StrEnum):
    """How good the news is, in Apprise's words."""

    success = "success"
    warning = "warning"
    failure = "failure"


@dataclass(frozen=True)
class Message:
    """What people are told."""

    title: str
    body: str
    kind: Kind


@dataclass(frozen=True)
class Service:
    """One address, ready to be used. where: the place that it was written at, which may be shown."""

    where: str
    name: str
    sender: Apprise


class Notifier:
    """Sends messages to every address of a sweep. Used by one thread."""

    def __init__(self, services: Sequence[Service]) -> None:
        self._services = tuple(services)

    def tell(self, message: Message) -> list[str]:
        """Send a message; returns what went wrong, a line each, which is nobody's failure but theirs."""
        return [trouble for service in self._services if (trouble := _send(service, message)) is not None]


def open_notifier(spec: SweepSpec, environment: Mapping[str, str] = os.environ) -> Notifier:
    """Whoever the sweep's ``notify`` and ORCHESTRATE_NOTIFY name, each once; nothing is sent yet.

    Raises:
        SpecError: an address names a variable that is not set, or is none that Apprise can use.
    """
    addresses = dict.fromkeys((environment.get(VARIABLE) or "").split(), f"the environment's {VARIABLE}")
    for i, written in enumerate(spec.notify):
        where = f"{spec.where(('notify', i))}: notify[{i}]"
        addresses |= dict.fromkeys(_expand(written, where, environment).split(), where)
    return Notifier([_open(address, where) for address, where in addresses.items()])


def _expand(written: str, where: str, environment: Mapping[str, str]) -> str:
    """The address with the values of the variables that it names."""
    for name in _NAMED.findall(written):
        if not environment.get(name):
            raise SpecError(
                f"{where} names ${{{name}}}, which the environment does not hold. Set {name}, or leave the entry out."
            )
    return _NAMED.sub(lambda found: environment[found[1]], written)


def _open(address: str, where: str) -> Service:
    import apprise

    asset = apprise.AppriseAsset(
        app_id="orchestrate", app_desc="orchestrate", async_mode=False, service_timeout=TIMEOUT_S, storage_mode="memory"
    )
    with _silence():
        try:
            plugin = apprise.Apprise.instantiate(address, asset=asset, suppress_exceptions=True)
        except Exception:  # a parser that trips; its message would hold the address
            plugin = None
    if plugin is None:
        raise SpecError(
            f"{where} is no address that Apprise can use{_explain(address)} (not shown here: it may hold a password)."
        )
    sender = apprise.Apprise(asset=asset)
    sender.add(plugin)
    return Service(where, str(plugin.service_name), sender)


def _explain(address: str) -> str:
    """What is wrong with it, as far as that can be told by its scheme."""
    found = _SCHEME.match(address)
    if found is None:
        return ": it does not begin with a service, such as mailto:// or slack://"
    scheme, known = found[1].lower(), _list_schemes()
    if scheme in known:
        return f": something after {scheme}:// is missing or wrong"
    return f": {scheme!r} is none of its {len(known)} services.{suggest(scheme, known)}"


def _list_schemes() -> list[str]:
    import apprise

    with _silence():
        described = apprise.Apprise().details()["schemas"]
    return sorted({scheme for entry in described for kind in ("protocols", "secure_protocols") for scheme in entry[kind] or ()})


def _send(service: Service, message: Message) -> str | None:
    with _silence():
        try:
            is_sent = bool(service.sender.notify(title=message.title, body=message.body, notify_type=message.kind.value))
        except Exception as error:  # whatever it is: its text may hold the address
            return f"{service.where} ({service.name}) could not be told: {type(error).__name__}."
    return None if is_sent else f"{service.where} ({service.name}) could not be told: refused, or not to be reached."


@contextmanager
def _silence() -> Iterator[None]:
    """Drop what is logged and warned of below: it holds addresses, or is about plugins that nobody asked for."""
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    # an ancestor's level counts for those without one of their own, so that urllib3.connectionpool is silenced with urllib3
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


MAX_REASONS = 5
"""Of failed trials; the rest are counted."""


def describe_end(report: SweepReport, home: Home) -> Message:
    """A sweep that came to some end of its own."""
    states = [str(trial["state"]) for trial in report.trials]
    counted = ", ".join(f"{states.count(state)} {state.lower()}" for state in dict.fromkeys(states)) or "no trials"
    lines = [f"{counted} in {format_duration(report.wall_s)}"]
    if (best := _find_best(report)) is not None:
        lines.append(f"best: {best['name']}, {OBJECTIVE} {best['metrics'][OBJECTIVE]:.4f}")
    lines += [line for line in (report.note, report.halted) if line]
    failed = [f"failed: {trial['name']}: {trial['reason']}" for trial in report.trials if trial["state"] == TrialState.FAILED]
    lines += failed[:MAX_REASONS] + ([f"and {len(failed) - MAX_REASONS} more"] if len(failed) > MAX_REASONS else [])
    if report.interrupted or report.halted:
        lines.append("The same command goes on where it stopped.")
    how, kind = _judge(report, num_failed=len(failed))
    return _write(report.sweep, how, [*lines, *_say_where(report.sweep, home)], kind)


def describe_failure(sweep: str, error: BaseException, home: Home) -> Message:
    """A sweep that could not be run to its end."""
    if isinstance(error, KeyboardInterrupt | SystemExit):
        return _write(sweep, "interrupted", ["It was ended before its trials were.", *_say_where(sweep, home)], Kind.warning)
    told = str(error) if isinstance(error, OrchestrateError) else f"{type(error).__name__}: {error}"
    return _write(sweep, "failed", [told, *_say_where(sweep, home)], Kind.failure)


def _judge(report: SweepReport, *, num_failed: int) -> tuple[str, Kind]:
    if report.interrupted:
        return "interrupted", Kind.warning
    if report.halted:
        return "halted", Kind.failure
    if num_failed:
        return f"ended, {num_failed} of {len(report.trials)} trials failed", Kind.warning
    return "done", Kind.success


def _find_best(report: SweepReport) -> dict[str, Any] | None:
    done = (TrialState.COMPLETE, TrialState.CACHED)
    scored = [trial for trial in report.trials if trial["state"] in done and OBJECTIVE in trial["metrics"]]
    return max(scored, key=lambda trial: float(trial["metrics"][OBJECTIVE]), default=None)


def _say_where(sweep: str, home: Home) -> list[str]:
    records = redact(home.tracking) if home.tracking else f"{socket.gethostname()}:{home.root}"
    return [f"Where to look: orchestrate report {sweep}; {records}"]


def _write(sweep: str, how: str, lines: list[str], kind: Kind) -> Message:
    return Message(f"{sweep}: {how}", redact("\n".join(lines)), kind)
