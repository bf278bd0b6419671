"""Commands that keep records, disk and servers in order."""

from typing import Annotated

import typer

from orchestrator.cli.options import AsJson, print_report

app = typer.Typer()


@app.command()
def sync(
    sweeps: Annotated[list[str] | None, typer.Argument(metavar="SWEEP", help="Names of sweeps (default: all).")] = None,
    timeout_s: Annotated[
        float, typer.Option("--timeout", metavar="SECONDS", min=0, help="How long to wait for an unreachable server.")
    ] = 60.0,
    as_json: AsJson = False,
) -> None:
    """Send results that MLflow lacks, and close abandoned runs."""
    from orchestrator.operations.sync import sync as sync_sweeps

    report = sync_sweeps(sweeps or [], timeout_s)
    print_report(report, as_json=as_json)
    raise typer.Exit(report.exit_code)


@app.command()
def clean(
    sweeps: Annotated[
        list[str] | None, typer.Argument(metavar="SWEEP", help="Clean only trials of these sweeps (default: everything).")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be deleted, and delete nothing.")] = False,
    as_json: AsJson = False,
) -> None:
    """Delete checkpoints that no sweep keeps, and cached files."""
    from rich.console import Console

    from orchestrator.operations.retention.clean import clean as clean_up
    from orchestrator.state.home import Home

    report = clean_up(Home.from_environment(), sweeps or [], dry_run=dry_run, console=Console(stderr=True))
    print_report(report, as_json=as_json)


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Check servers, logins, clocks, data, GPUs, disk, packages. Suggests a fix for each problem."""
    from orchestrator.operations.doctor.examine import examine
    from orchestrator.state.home import Home

    diagnosis = examine(Home.from_environment())
    print_report(diagnosis, as_json=as_json)
    raise typer.Exit(diagnosis.exit_code)
