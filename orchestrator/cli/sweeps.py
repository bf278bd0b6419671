"""Commands that run, watch and stop sweeps."""

import signal
from pathlib import Path
from typing import Annotated, Literal

import typer

from orchestrator.cli.options import AsJson, SweepName, print_report
from orchestrator.errors import SpecError

app = typer.Typer()


LauncherName = Literal["local", "inline", "ray"]
ExportFormat = Literal["crontab", "systemd"]

Launching = Annotated[
    LauncherName,
    typer.Option(help="local: one process per attempt. inline: in this process. ray: one task per attempt on a Ray cluster."),
]
Slots = Annotated[
    int | None,
    typer.Option(min=1, help="Trials to run in parallel (default: the sweep file's, else one per GPU or core)."),
]


def _interrupt_on_signals() -> None:
    """Let SIGTERM end the command like Ctrl-C until the dispatcher installs its own handlers."""

    def interrupt(number: int, _frame: object) -> None:
        # a job manager may send both signals at once; the second one must not kill a process that is ending in order
        signal.signal(signal.SIGTERM if number == signal.SIGINT else signal.SIGINT, signal.SIG_IGN)
        raise KeyboardInterrupt

    for number in (signal.SIGINT, signal.SIGTERM):  # a shell lets its background processes ignore SIGINT
        signal.signal(number, interrupt)


@app.command()
def sweep(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Sweep file (YAML).")],
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="a.b=c", help="Override one field of the file; repeatable.")
    ] = None,
    plan_only: Annotated[bool, typer.Option("--plan", help="Show the plan, and run nothing.")] = False,
    launcher: Launching = "local",
    slots: Slots = None,
    again: Annotated[
        str | None, typer.Option(metavar="NAME", help="Retrain everything under this name; the same name again resumes.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Plan a sweep, show the plan, and run what is not done yet."""
    _interrupt_on_signals()
    if plan_only:
        from orchestrator.dispatch.preparation import plan_sweep

        print_report(plan_sweep(file, overrides=overrides or [], launcher=launcher, slots=slots, again=again), as_json=as_json)
        return
    from orchestrator.dispatch.run import run_sweep

    report = run_sweep(file, overrides=overrides or [], launcher=launcher, slots=slots, again=again)
    print_report(report, as_json=as_json)
    raise typer.Exit(report.exit_code)


@app.command()
def worker(
    name: SweepName,
    launcher: Launching = "local",
    slots: Slots = None,
    leave_after_s: Annotated[
        float | None,
        typer.Option(
            "--leave-after",
            metavar="SECONDS",
            min=0,
            help="Exit after this many idle seconds; wait as long for the sweep to begin (default: stay until it ends).",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Join a sweep that another machine has started. Runs its trials on this machine; both share ORCHESTRATE_STORAGE."""
    _interrupt_on_signals()
    from orchestrator.dispatch.join import join_sweep

    report = join_sweep(name, launcher=launcher, slots=slots, leave_after_s=leave_after_s)
    print_report(report, as_json=as_json)
    raise typer.Exit(report.exit_code)


@app.command()
def status(
    sweeps: Annotated[
        list[str] | None, typer.Argument(metavar="SWEEP", help="Names of sweeps (default: running ones, else the latest).")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show what runs where and how fast, and what failed and why. Also shows which results MLflow lacks."""
    from orchestrator.operations.status import read_status

    print_report(read_status(sweeps or []), as_json=as_json)


@app.command()
def stop(
    name: SweepName,
    now: Annotated[bool, typer.Option("--now", help="Kill running trials, like a second Ctrl-C.")] = False,
    timeout_s: Annotated[
        float | None,
        typer.Option("--timeout", metavar="SECONDS", min=0, help="Wait at most this long (default: until all have ended)."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Stop a sweep gracefully on all its machines. Running epochs end and are kept; the command waits for them."""
    from orchestrator.operations.stop import stop_sweep

    report = stop_sweep(name, now=now, timeout_s=timeout_s)
    print_report(report, as_json=as_json)
    raise typer.Exit(report.exit_code)


@app.command()
def retry(
    sweeps: Annotated[list[str], typer.Argument(metavar="SWEEP", help="Names of sweeps.")],
    trials: Annotated[
        list[str] | None,
        typer.Option(
            "--trial", metavar="KEY", help="Train this trial again instead: its key, or the key's beginning; repeatable."
        ),
    ] = None,
) -> None:
    """Let the next `orchestrate sweep` retry failed trials."""
    from orchestrator.operations.retry import retry_failed, train_again
    from orchestrator.state.home import Home

    home = Home.from_environment()
    for line in train_again(home, sweeps, trials) if trials else retry_failed(home, sweeps):
        print(line)


@app.command()
def schedule(
    files: Annotated[list[Path] | None, typer.Argument(metavar="FILE", help="Sweep files with a 'schedule'.")] = None,
    at_once: Annotated[int, typer.Option(min=1, help="Sweeps to run in parallel; the others wait, highest priority first.")] = 1,
    list_only: Annotated[bool, typer.Option("--list", help="Show past and next runs, and run nothing.")] = False,
    export: Annotated[ExportFormat | None, typer.Option(help="Print crontab lines or systemd units, and run nothing.")] = None,
    as_json: AsJson = False,
) -> None:
    """Run sweeps at the times in their files, until Ctrl-C."""
    from orchestrator.operations.schedule.export import EXPORTS
    from orchestrator.operations.schedule.listing import list_schedule
    from orchestrator.operations.schedule.run import load_scheduled, run_schedule
    from orchestrator.state.home import Home

    if export is not None and (list_only or as_json):
        other = "--list" if list_only else "--json"
        raise SpecError(f"orchestrate schedule: --export prints lines or units only. Leave {other} out.")
    if as_json and not list_only:
        raise SpecError("orchestrate schedule: --json needs --list. Add --list, or leave --json out.")
    home = Home.from_environment()
    if list_only:
        print_report(list_schedule(files or [], home), as_json=as_json)
        return
    if not files:
        raise SpecError("orchestrate schedule: no FILE. Name the sweep files to run, or add --list.")
    sweeps = load_scheduled(files)
    if export is not None:
        print(EXPORTS[export](sweeps))
        return
    raise typer.Exit(run_schedule(sweeps, home, at_once=at_once))
