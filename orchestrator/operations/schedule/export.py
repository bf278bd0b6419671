"""Scheduled sweeps -> lines of a crontab or units of systemd, for machines without our own scheduler."""

import os
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from orchestrator.errors import ScheduleError
from orchestrator.operations.schedule.scheduler import ScheduledSweep
from orchestrator.spec.cron import WEEKDAYS, CronField, CronLine, parse_line

PATHS = ("ORCHESTRATE_HOME", "ORCHESTRATE_DATA", "ORCHESTRATE_SLOTS")
"""Variables with folders, which are exported if they are set."""

ADDRESSES = ("ORCHESTRATE_STORAGE", "MLFLOW_TRACKING_URI")
"""Variables that may hold passwords, which are not exported."""


def write_crontab(sweeps: Sequence[ScheduledSweep]) -> str:
    """Lines for `crontab -e`: absolute paths, the working directory, time zones.

    Raises:
        ScheduleError: a path cannot be written in a crontab.
    """
    lines = [
        "# Lines of `orchestrate schedule --export crontab`.",
        "# Cron does not catch up on missed times. It starts sweeps beside running ones; these share the slots by priority.",
        *(f"# {text}" for text in _describe_environment()),
        *(f"{name}={value}" for name, value in _environment().items()),
    ]
    zone: str | None = None
    for sweep in sorted(sweeps, key=lambda s: s.schedule.timezone or ""):  # without a zone first: CRON_TZ holds until the next
        if sweep.schedule.timezone != zone:
            zone = sweep.schedule.timezone
            lines += ["# cronie reads CRON_TZ; Debian's cron uses the machine's time zone instead.", f"CRON_TZ={zone}"]
        again = f" --again {_name_now(sweep)}" if sweep.schedule.again else ""
        command = f"cd {shlex.quote(str(Path.cwd()))} && {shlex.join(_command(sweep))}{again}"
        lines.append(f"{sweep.schedule.cron} {_one_line(command, sweep).replace('%', chr(92) + '%')}")
    return "\n".join(lines)


def write_systemd(sweeps: Sequence[ScheduledSweep]) -> str:
    """A service and a timer for each sweep, each under a comment that names its file.

    Raises:
        ScheduleError: a path cannot be written in a unit.
    """
    units = [
        "\n".join(
            [
                "# Units of `orchestrate schedule --export systemd`. systemd never runs a sweep twice at a time. Missed times",
                "# are run once, however late. Different sweeps may run in parallel; they share the slots by priority.",
                *(f"# {text}" for text in _describe_environment()),
            ]
        )
    ]
    for sweep in sweeps:
        name = f"orchestrate-{sweep.name}"
        units.append(f"# ~/.config/systemd/user/{name}.service\n" + "\n".join(_service(sweep)))
        units.append(f"# ~/.config/systemd/user/{name}.timer\n" + "\n".join(_timer(sweep)))
    names = " ".join(f"orchestrate-{sweep.name}.timer" for sweep in sweeps)
    units.append(f"# systemctl --user daemon-reload && systemctl --user enable --now {names}")
    return "\n\n".join(units)


def write_calendar(line: CronLine, zone: str | None) -> list[str]:
    """The line as calendar events of systemd; two if either day or weekday may match."""
    months = _numbers(line.month, 12)
    days = _numbers(line.day, 31)
    time = f"{_numbers(line.hour, 24)}:{_numbers(line.minute, 60)}:00" + (f" {zone}" if zone else "")
    weekdays = sorted(line.weekday.values, key=lambda day: (day - 1) % 7)
    week = ",".join(WEEKDAYS[n].title() for n in weekdays) + " " if len(weekdays) < 7 else ""
    if line.takes_either_day:
        return [f"*-{months}-{days} {time}", f"{week}*-{months}-* {time}"]
    return [f"{week}*-{months}-{days} {time}"]


EXPORTS: Mapping[str, Callable[[Sequence[ScheduledSweep]], str]] = {"crontab": write_crontab, "systemd": write_systemd}


def _numbers(field: CronField, how_many: int) -> str:
    return "*" if len(field.values) == how_many else ",".join(f"{number:02d}" for number in sorted(field.values))


def _service(sweep: ScheduledSweep) -> Iterator[str]:
    yield from ("[Unit]", f"Description=orchestrate sweep {_escape(str(sweep.file), sweep)}", "", "[Service]", "Type=oneshot")
    yield f"WorkingDirectory={_escape(str(Path.cwd()), sweep)}"
    yield from (f'Environment="{name}={_quote(value, sweep)}"' for name, value in _environment().items())
    words = _command(sweep)
    if sweep.schedule.again:
        script = f'exec "$@" --again {_name_now(sweep)}'
        words = ["/bin/sh", "-c", script, "sh", *words]
    yield "ExecStart=" + " ".join(f'"{_quote(word, sweep).replace("$", "$$")}"' for word in words)
    yield from ("KillMode=mixed", "KillSignal=SIGINT", "TimeoutStopSec=15min", "SuccessExitStatus=130")


def _timer(sweep: ScheduledSweep) -> Iterator[str]:
    yield from ("[Unit]", f"Description=orchestrate schedule of {sweep.name}", "", "[Timer]")
    events = write_calendar(parse_line(sweep.schedule.cron), sweep.schedule.timezone)
    yield from (f"OnCalendar={event}" for event in events)
    yield from ("AccuracySec=1s", "Persistent=true", "", "[Install]", "WantedBy=timers.target")


def _command(sweep: ScheduledSweep) -> list[str]:
    return [sys.executable, "-m", "orchestrator.cli", "sweep", str(sweep.file)]


def _name_now(sweep: ScheduledSweep) -> str:
    """For a shell: the name that our own scheduler would give the occurrence."""
    zone = f"TZ={sweep.schedule.timezone} " if sweep.schedule.timezone else ""
    return f'"{sweep.name}@$({zone}date +%Y-%m-%dT%H:%M%:z)"'


def _environment() -> dict[str, str]:
    return {name: str(Path(os.environ[name]).expanduser().absolute()) for name in PATHS if os.environ.get(name)}


def _describe_environment() -> list[str]:
    set_here = [name for name in ADDRESSES if os.environ.get(name)]
    return [f"Not exported, because it may hold a password: {name}" for name in set_here]


def _one_line(text: str, sweep: ScheduledSweep) -> str:
    if not text.isprintable():
        raise ScheduleError(
            f"{sweep.file}: {text!r} has a line break or other control character, which cannot be exported. Rename the folder."
        )
    return text


def _escape(text: str, sweep: ScheduledSweep) -> str:
    """Escape systemd's specifiers."""
    return _one_line(text, sweep).replace("%", "%%")


def _quote(text: str, sweep: ScheduledSweep) -> str:
    """Escape text for double quotes in a unit."""
    return _escape(text, sweep).replace("\\", "\\\\").replace('"', '\\"')
