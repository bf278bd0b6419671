"""Commands that run sweeps and look after those that run."""

from __future__ import annotations

import signal
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from orchestrator.cli.options import AsJson, SweepName, print_report
from orchestrator.errors import SpecError

app = typer.Typer()


class LauncherName(StrEnum):
    """Where attempts run."""

    local = "local"
    inline = "inline"
    ray = "ray"


class ExportFormat(StrEnum):
    """What else can run a sweep by the clock."""

    crontab = "crontab"
    systemd = "systemd"


Launching = Annotated[
    LauncherName,
    typer.Option(help="local: a process an attempt. inline: in this process. ray: a task an attempt, in a Ray cluster."),
]
Slots = Annotated[int | None, typer.Option(min=1, help="Trials at once; default: the file's, else one a GPU or a core.")]


def _heed_signals() -> None:
    """Have SIGTERM end the command as Ctrl-C does, from when its options are read; while trials run they mean more.

    Whoever ends a job may send both at once; of the second a process would die that is ending in good order.
    """

    def interrupt(number: int, _frame: object) -> None:
        signal.signal(signal.SIGTERM if number == signal.SIGINT else signal.SIGINT, signal.SIG_IGN)
        raise KeyboardInterrupt

    for number in (signal.SIGINT, signal.SIGTERM):  # a shell has its background processes ignore SIGINT
        signal.signal(number, interrupt)


@app.command()
def sweep(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The sweep file, YAML.")],
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="a.b=c", help="Change one field of the file; may be repeated.")
    ] = None,
    plan_only: Annotated[bool, typer.Option("--plan", help="Show the plan and stop before anything runs.")] = False,
    launcher: Launching = LauncherName.local,
    slots: Slots = None,
    again: Annotated[
        str | None, typer.Option(metavar="NAME", help="Train everything anew under this name; the same name goes on with it.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Plan a sweep, show the plan, and run what is not done yet."""
    _heed_signals()
    if plan_only:
        from orchestrator.dispatch.resume import plan_sweep

        print_report(
            plan_sweep(file, overrides=overrides or [], launcher=launcher.value, slots=slots, again=again), as_json=as_json
        )
        return
    from orchestrator.dispatch.run import run_sweep

    report = run_sweep(file, overrides=overrides or [], launcher=launcher.value, slots=slots, again=again)
    print_report(report, as_json=as_json)
    raise typer.Exit(report.exit_code)


@app.command()
def worker(
    name: SweepName,
    launcher: Launching = LauncherName.local,
    slots: Slots = None,
    leave_after_s: Annotated[
        float | None,
        typer.Option(
            "--leave-after",
            metavar="SECONDS",
            min=0,
            help="Leave when for so long nothing was left but what others run; as long for the sweep to begin. Default: stay.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Join a sweep that was begun elsewhere: run its trials on this machine's slots, by way of ORCHESTRATE_STORAGE."""
    _heed_signals()
    from orchestrator.dispatch.join import join_sweep

    report = join_sweep(name, launcher=launcher.value, slots=slots, leave_after_s=leave_after_s)
    print_report(report, as_json=as_json)
    raise typer.Exit(report.exit_code)


@app.command()
def status(
    sweeps: Annotated[
        list[str] | None, typer.Argument(metavar="SWEEP", help="Names of sweeps; default: those that run, else the latest.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show how sweeps stand: what runs where, how fast, what failed and why, what MLflow lacks."""
    from orchestrator.operations.status import read_status

    print_report(read_status(sweeps or []), as_json=as_json)


@app.command()
def stop(
    name: SweepName,
    now: Annotated[bool, typer.Option("--now", help="Kill what runs, as a second Ctrl-C does.")] = False,
    timeout_s: Annotated[
        float | None, typer.Option("--timeout", metavar="SECONDS", min=0, help="Wait no longer; default: until all have ended.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """End a sweep gracefully, on whatever machines it runs, and wait until it has ended."""
    from orchestrator.operations.stop import stop_sweep

    report = stop_sweep(name, now=now, timeout_s=timeout_s)
    print_report(report, as_json=as_json)
    raise typer.Exit(report.exit_code)


@app.command()
def retry(
    sweeps: Annotated[list[str], typer.Argument(metavar="SWEEP", help="Names of sweeps.")],
    trials: Annotated[
        list[str] | None,
        typer.Option("--trial", metavar="KEY", help="A finished trial to be trained again; its key, or the beginning of it."),
    ] = None,
) -> None:
    """Let failed trials, or those named, be tried again by the next `orchestrate sweep`."""
    from orchestrator.operations.retry import retry_failed, train_again
    from orchestrator.state.home import Home

    home = Home.from_environment()
    for line in train_again(home, sweeps, trials) if trials else retry_failed(home, sweeps):
        print(line)


@app.command()
def schedule(
    files: Annotated[list[Path] | None, typer.Argument(metavar="FILE", help="Sweep files with a 'schedule'.")] = None,
    at_once: Annotated[int, typer.Option(min=1, help="Sweeps at a time; the others wait, by priority.")] = 1,
    list_only: Annotated[bool, typer.Option("--list", help="Show past and next occurrences, and run nothing.")] = False,
    export: Annotated[ExportFormat | None, typer.Option(help="Print lines or units for another scheduler.")] = None,
    as_json: AsJson = False,
) -> None:
    """Run sweeps by the cron lines in their files, until Ctrl-C."""
    from orchestrator.operations.schedule.export import EXPORTS
    from orchestrator.operations.schedule.listing import list_schedule
    from orchestrator.operations.schedule.run import load_scheduled, run_schedule
    from orchestrator.state.home import Home

    if export is not None and (list_only or as_json):
        other = "--list" if list_only else "--json"
        raise SpecError(f"orchestrate schedule: --export prints lines or units and nothing else. Leave {other} out.")
    if as_json and not list_only:
        raise SpecError("orchestrate schedule: --json is for --list. Leave it out, or ask for --list.")
    home = Home.from_environment()
    if list_only:
        print_report(list_schedule(files or [], home), as_json=as_json)
        return
    if not files:
        raise SpecError("orchestrate schedule: no FILE. Name the sweep files to run, or ask for --list.")
    sweeps = load_scheduled(files)
    if export is not None:
        print(EXPORTS[export.value](sweeps))
        return
    raise typer.Exit(run_schedule(sweeps, home, at_once=at_once))
