"""Commands that keep records and disk in order."""

from __future__ import annotations

from typing import Annotated

import typer

from orchestrator.cli.options import AsJson, print_report

app = typer.Typer()


@app.command()
def sync(
    sweeps: Annotated[list[str] | None, typer.Argument(metavar="SWEEP", help="Names of sweeps; default: all.")] = None,
    timeout_s: Annotated[
        float, typer.Option("--timeout", metavar="SECONDS", min=0, help="How long a server that is away is waited for.")
    ] = 60.0,
    as_json: AsJson = False,
) -> None:
    """Repair MLflow by hand: send what it lacks, and close runs that nobody works on."""
    from orchestrator.operations.sync import sync as sync_sweeps

    report = sync_sweeps(sweeps or [], timeout_s)
    print_report(report, as_json=as_json)
    raise typer.Exit(report.exit_code)


@app.command()
def clean(
    sweeps: Annotated[
        list[str] | None, typer.Argument(metavar="SWEEP", help="Only what is of their trials; default: everything.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would go, and remove nothing.")] = False,
    as_json: AsJson = False,
) -> None:
    """Free disk: checkpoints that no sweep keeps, and whatever can be made or fetched again."""
    from rich.console import Console

    from orchestrator.operations.retention.clean import clean as clean_up
    from orchestrator.state.home import Home

    report = clean_up(Home.from_environment(), sweeps or [], dry_run=dry_run, console=Console(stderr=True))
    print_report(report, as_json=as_json)


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Say what is wrong with servers, logins, clocks, data, GPUs, disk and packages, and what to do about it."""
    from orchestrator.operations.doctor.examine import examine
    from orchestrator.state.home import Home

    diagnosis = examine(Home.from_environment())
    print_report(diagnosis, as_json=as_json)
    raise typer.Exit(diagnosis.exit_code)
