"""The commands: reads options, calls the room that does the work, prints; imports heavy modules only inside them.

Standard output is for results (and for the one JSON document of ``--json``), standard error for logs and progress.
Exit codes: 0 done, 1 some trials failed or were left because the disk was full, 2 bad input or refused, 130 interrupted.
"""

from __future__ import annotations

import json
import signal
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Protocol

import typer

from orchestrator.errors import OrchestrateError, SpecError

if TYPE_CHECKING:
    from orchestrator.tracking.runs import RunReader

app = typer.Typer(
    name="orchestrate",
    help="Sweeps of segmentation experiments on every GPU there is, one leaderboard, and the best ensemble out of them.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
data_app = typer.Typer(name="data", help="Look at a data set before training on it.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(data_app)


class LauncherName(StrEnum):
    """Where attempts run."""

    local = "local"
    inline = "inline"


class ExportFormat(StrEnum):
    """What else can run a sweep by the clock."""

    crontab = "crontab"
    systemd = "systemd"


class Flips(StrEnum):
    """Mirror images that a prediction is the mean over."""

    none = "none"
    horizontal = "horizontal"
    both = "both"


Sweeps = Annotated[list[str] | None, typer.Argument(metavar="SWEEP", help="Names of sweeps; default: the latest.")]
ModelName = Annotated[
    str,
    typer.Argument(
        metavar="RUN_OR_ENSEMBLE",
        help="A run's id, a trial's key or its beginning, a checkpoint's path, or a sweep for the ensemble chosen of it last.",
    ),
]
SweepName = Annotated[str, typer.Argument(metavar="SWEEP", help="Name of a sweep.")]
Launching = Annotated[LauncherName, typer.Option(help="local: a process an attempt. inline: in this process.")]
Slots = Annotated[int | None, typer.Option(min=1, help="Trials at once; default: the file's, else one a GPU or a core.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document on standard output and nothing else there.")]
Source = Annotated[str, typer.Argument(metavar="SOURCE", help="synthetic, a .npz, or a folder with images/ and masks/.")]
DataOptions = Annotated[
    list[str] | None, typer.Option("--set", metavar="data.a=b", help="How it is read, as in a sweep file; may be repeated.")
]


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
    if plan_only:
        from orchestrator.planning import plan_sweep

        _print(plan_sweep(file, overrides=overrides or [], launcher=launcher.value, slots=slots, again=again), as_json=as_json)
        return
    from orchestrator.sweep import run_sweep

    report = run_sweep(file, overrides=overrides or [], launcher=launcher.value, slots=slots, again=again)
    _print(report, as_json=as_json)
    raise typer.Exit(report.exit_code)


@app.command()
def worker(
    name: SweepName,
    launcher: Launching = LauncherName.local,
    slots: Slots = None,
    as_json: AsJson = False,
) -> None:
    """Join a sweep that was begun elsewhere: run its trials on this machine's slots, by way of ORCHESTRATE_STORAGE."""
    from orchestrator.joining import join_sweep

    report = join_sweep(name, launcher=launcher.value, slots=slots)
    _print(report, as_json=as_json)
    raise typer.Exit(report.exit_code)


@app.command()
def status(
    sweeps: Annotated[
        list[str] | None, typer.Argument(metavar="SWEEP", help="Names of sweeps; default: those that run, else the latest.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show how sweeps stand: what runs where, how fast, what failed and why, what MLflow lacks."""
    from orchestrator.status import read_status

    _print(read_status(sweeps or []), as_json=as_json)


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
    from orchestrator.stopping import stop_sweep

    report = stop_sweep(name, now=now, timeout_s=timeout_s)
    _print(report, as_json=as_json)
    raise typer.Exit(report.exit_code)


@app.command()
def sync(
    sweeps: Annotated[list[str] | None, typer.Argument(metavar="SWEEP", help="Names of sweeps; default: all.")] = None,
    timeout_s: Annotated[
        float, typer.Option("--timeout", metavar="SECONDS", min=0, help="How long a server that is away is waited for.")
    ] = 60.0,
    as_json: AsJson = False,
) -> None:
    """Repair MLflow by hand: send what it lacks, and close runs that nobody works on."""
    from orchestrator.syncing import sync as sync_sweeps

    report = sync_sweeps(sweeps or [], timeout_s)
    _print(report, as_json=as_json)
    raise typer.Exit(report.exit_code)


@app.command()
def leaderboard(
    sweeps: Sweeps = None,
    top: Annotated[int | None, typer.Option(min=1, help="Only the first N.")] = None,
    as_json: AsJson = False,
) -> None:
    """Rank trials, with intervals, and show which differences are real."""
    from orchestrator.home import Home
    from orchestrator.leaderboard import load_leaderboard
    from orchestrator.tracking.place import Place
    from orchestrator.tracking.runs import RunReader

    home = Home.from_environment()
    reader = RunReader(Place.of(home))
    ranking = load_leaderboard(reader, _or_latest(sweeps, reader), cache=home.cache)
    _print(ranking if top is None else ranking.top(top), as_json=as_json)


@app.command()
def best_ensemble(
    sweeps: Sweeps = None,
    k: Annotated[int, typer.Option("--k", min=1, help="How many members at most.")] = 4,
    exactly: Annotated[bool, typer.Option("--exactly", help="Exactly k members, even where fewer are better.")] = False,
    as_json: AsJson = False,
) -> None:
    """Choose the trials whose mean prediction is best, and say how much of the gain is real."""
    from orchestrator.ensemble.from_runs import best_ensemble as choose
    from orchestrator.home import Home
    from orchestrator.tracking.place import Place
    from orchestrator.tracking.runs import RunReader

    home = Home.from_environment()
    reader = RunReader(Place.of(home))
    _print(choose(reader, _or_latest(sweeps, reader), k=k, exactly=exactly, cache=home.cache), as_json=as_json)


@app.command()
def predict(
    model: ModelName,
    source: Annotated[Path, typer.Argument(metavar="INPUT", help="A .npz, or a folder of pictures.")],
    out: Annotated[Path, typer.Option(help="FILE.npz, FILE.csv (a row a picture), or a folder for PNG masks.")],
    tta: Annotated[Flips | None, typer.Option(help="Mean over mirror images; default: as validated.")] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Pictures at once; default: as validated.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1; default: the first GPU, else the CPU.")] = None,
    as_json: AsJson = False,
) -> None:
    """Predict the masks of pictures by a run, an ensemble or a checkpoint."""
    from orchestrator.home import Home
    from orchestrator.predict.command import predict as predict_pictures

    home, flips = Home.from_environment(), None if tta is None else tta.value
    report = predict_pictures(model, source, out=out, home=home, flips=flips, batch_size=batch_size, device=device)  # type: ignore[arg-type]  # mypy takes an enum's values for any str
    _print(report, as_json=as_json)


@app.command()
def export(
    model: ModelName,
    out: Annotated[Path | None, typer.Option(help="Save it as this folder instead of logging it to the run.")] = None,
    as_json: AsJson = False,
) -> None:
    """Log a run, an ensemble or a checkpoint as an MLflow model that can be loaded and served."""
    from orchestrator.home import Home
    from orchestrator.predict.export import export as export_model

    _print(export_model(model, home=Home.from_environment(), out=out), as_json=as_json)


@app.command()
def report(
    name: Annotated[str | None, typer.Argument(metavar="SWEEP", help="Name of a sweep; default: the latest.")] = None,
    out: Annotated[Path | None, typer.Option(metavar="FILE.html", help="Write one HTML file instead of printing.")] = None,
    as_json: AsJson = False,
) -> None:
    """Print a sweep's table: a line a row or configuration over its seeds, ensembles in their place, published figures beside."""
    from orchestrator.home import Home
    from orchestrator.report.command import make_report
    from orchestrator.tracking.place import Place
    from orchestrator.tracking.runs import RunReader

    home = Home.from_environment()
    _print(make_report(RunReader(Place.of(home)), name, out=out, cache=home.cache), as_json=as_json)


@app.command()
def retry(
    sweeps: Annotated[list[str], typer.Argument(metavar="SWEEP", help="Names of sweeps.")],
    trials: Annotated[
        list[str] | None,
        typer.Option("--trial", metavar="KEY", help="A finished trial to be trained again; its key, or the beginning of it."),
    ] = None,
) -> None:
    """Let failed trials, or those named, be tried again by the next `orchestrate sweep`."""
    from orchestrator.home import Home
    from orchestrator.retraining import retry_failed, train_again

    home = Home.from_environment()
    for line in train_again(home, sweeps, trials) if trials else retry_failed(home, sweeps):
        print(line)


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

    from orchestrator.clean.command import clean as clean_up
    from orchestrator.home import Home

    report = clean_up(Home.from_environment(), sweeps or [], dry_run=dry_run, console=Console(stderr=True))
    _print(report, as_json=as_json)


@app.command()
def schedule(
    files: Annotated[list[Path] | None, typer.Argument(metavar="FILE", help="Sweep files with a 'schedule'.")] = None,
    at_once: Annotated[int, typer.Option(min=1, help="Sweeps at a time; the others wait, by priority.")] = 1,
    list_only: Annotated[bool, typer.Option("--list", help="Show past and next occurrences, and run nothing.")] = False,
    export: Annotated[ExportFormat | None, typer.Option(help="Print lines or units for another scheduler.")] = None,
    as_json: AsJson = False,
) -> None:
    """Run sweeps by the cron lines in their files, until Ctrl-C."""
    from orchestrator.home import Home
    from orchestrator.scheduling.command import load_scheduled, run_schedule
    from orchestrator.scheduling.listing import list_schedule
    from orchestrator.scheduling.units import EXPORTS

    home = Home.from_environment()
    if list_only:
        _print(list_schedule(files or [], home), as_json=as_json)
        return
    if not files:
        raise SpecError("orchestrate schedule: no FILE. Name the sweep files to run, or ask for --list.")
    sweeps = load_scheduled(files)
    if export is not None:
        print(EXPORTS[export.value](sweeps))
        return
    raise typer.Exit(run_schedule(sweeps, home, at_once=at_once))


@data_app.command()
def check(
    source: Source,
    overrides: DataOptions = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="SHEET.png|.html", help="Contact sheet; default: NAME-check.png here, none with --json."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Find outliers, duplicates, imbalance and odd pictures; `data.clean` reads the JSON."""
    from orchestrator.data.check import check_data

    default = None if as_json else Path(f"{Path(source).stem}-check.png")
    _print(check_data(source, overrides or [], out=out or default), as_json=as_json)


@data_app.command()
def show(
    source: Source,
    positions: Annotated[list[int], typer.Argument(metavar="INDEX...", help="Positions in the source, from 0.")],
    overrides: DataOptions = None,
    out: Annotated[Path | None, typer.Option(metavar="FILE.png", help="Default: NAME-INDEX.png here.")] = None,
) -> None:
    """Draw picture, mask and overlay side by side."""
    from orchestrator.data.show import show_data

    target = out or Path(f"{Path(source).stem}-{positions[0]}.png")
    show_data(source, positions, overrides or [], out=target)
    print(target)


@data_app.command()
def make(
    out: Annotated[Path, typer.Argument(metavar="FILE.npz")],
    num_images: Annotated[int | None, typer.Option(help="Tiles.")] = None,
    height: Annotated[int | None, typer.Option(help="Pixels.")] = None,
    width: Annotated[int | None, typer.Option(help="Pixels.")] = None,
    seed: Annotated[int | None, typer.Option(help="Other tiles of the same kind.")] = None,
    outlier_fraction: Annotated[float | None, typer.Option(help="Share of tiles that are tampered with.")] = None,
) -> None:
    """Write the synthetic set as a .npz with training_set (N, 2, H, W); defaults as of data.synthetic."""
    from orchestrator.data.make import make_data

    given = {"num_images": num_images, "height": height, "width": width, "seed": seed, "outlier_fraction": outlier_fraction}
    print(make_data(out, {name: value for name, value in given.items() if value is not None}))


@app.command()
def ui(
    name: Annotated[str | None, typer.Argument(metavar="SWEEP", help="Name of a sweep; default: the latest.")] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port on 127.0.0.1; 0 takes a free one.")] = 0,
) -> None:
    """Show MLflow's page, sorted by val/miou, until Ctrl-C."""
    from orchestrator.home import Home
    from orchestrator.tracking.page import open_page
    from orchestrator.tracking.place import Place

    signal.signal(signal.SIGTERM, lambda _number, _frame: sys.exit(143))  # so that the server ends with us
    page = open_page(Place.of(Home.from_environment()), name, port=port)
    try:
        print(f"{page.url}\nCtrl-C ends it." if page.process else page.url, flush=True)
        page.wait()
    finally:
        page.close()


def _or_latest(sweeps: list[str] | None, reader: RunReader) -> list[str]:
    """The sweeps named, or the one that ran last."""
    if sweeps:
        return sweeps
    latest = reader.latest_sweep()
    return [latest] if latest else []


class Report(Protocol):
    """What a command prints."""

    def to_json(self) -> Any:
        """For machines."""

    def render(self) -> Any:
        """For people, as rich draws it."""


def _print(report: Report, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(report.to_json(), indent=1, allow_nan=False))
        return
    from rich.console import Console

    rendered = report.render()
    Console().print(rendered, soft_wrap=isinstance(rendered, str))  # a sentence may hold an address, which a break would spoil


def main() -> None:
    """Run a command; what a person can mend is one message and exit code 2, never a traceback."""
    try:
        app()
    except OrchestrateError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
