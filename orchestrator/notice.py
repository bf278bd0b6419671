"""What people are told of a sweep that has ended: its name, how its trials stand, the best, how long it took, where to look."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any

from orchestrator.errors import OrchestrateError
from orchestrator.notify import Kind, Message
from orchestrator.secrets import redact
from orchestrator.trial import TrialState

if TYPE_CHECKING:
    from orchestrator.home import Home
    from orchestrator.summary import SweepReport

MAX_REASONS = 5
"""Of failed trials; the rest are counted."""


def describe_end(report: SweepReport, home: Home) -> Message:
    """A sweep that came to some end of its own."""
    states = [str(trial["state"]) for trial in report.trials]
    counted = ", ".join(f"{states.count(state)} {state.lower()}" for state in dict.fromkeys(states)) or "no trials"
    lines = [f"{counted} in {_write_duration(report.wall_s)}"]
    if (best := _find_best(report)) is not None:
        lines.append(f"best: {best['name']}, val/miou {best['metrics']['val/miou']:.4f}")
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
    scored = [trial for trial in report.trials if trial["state"] in done and "val/miou" in trial["metrics"]]
    return max(scored, key=lambda trial: float(trial["metrics"]["val/miou"]), default=None)


def _say_where(sweep: str, home: Home) -> list[str]:
    records = redact(home.tracking) if home.tracking else f"{socket.gethostname()}:{home.root}"
    return [f"Where to look: orchestrate report {sweep}; {records}"]


def _write(sweep: str, how: str, lines: list[str], kind: Kind) -> Message:
    return Message(f"{sweep}: {how}", redact("\n".join(lines)), kind)


def _write_duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"
