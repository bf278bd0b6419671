"""Commands that show what sweeps came to, and put it to use."""

from __future__ import annotations

import signal
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from orchestrator.cli.options import AsJson, Sweeps, or_latest, print_report

app = typer.Typer()


class Flips(StrEnum):
    """Mirror images that a prediction is the mean over."""

    none = "none"
    horizontal = "horizontal"
    both = "both"


class SearchKind(StrEnum):
    """How an ensemble's members are searched for."""

    auto = "auto"
    greedy = "greedy"
    weighted = "weighted"
    swap = "swap"
    beam = "beam"
    exhaustive = "exhaustive"


class Combine(StrEnum):
    """What is taken of the members' probabilities."""

    arithmetic = "arithmetic"
    geometric = "geometric"
    vote = "vote"


ModelName = Annotated[
    str,
    typer.Argument(
        metavar="RUN_OR_ENSEMBLE",
        help="A run's id, a trial's key or its beginning, a checkpoint's path, or a sweep for the ensemble chosen of it last.",
    ),
]


@app.command()
def leaderboard(
    sweeps: Sweeps = None,
    top: Annotated[int | None, typer.Option(min=1, help="Only the first N; else 100, or all as JSON.")] = None,
    as_json: AsJson = False,
) -> None:
    """Rank trials, with intervals, and show which differences are real."""
    from orchestrator.analysis.leaderboard import DRAWN_ROWS, load_leaderboard
    from orchestrator.state.home import Home
    from orchestrator.tracking.location import TrackingLocation
    from orchestrator.tracking.reader.runs import RunReader

    home = Home.from_environment()
    reader = RunReader(TrackingLocation.of(home))
    ranking = load_leaderboard(reader, or_latest(sweeps, reader), cache=home.cache)
    num_rows = DRAWN_ROWS if top is None and not as_json else top
    print_report(ranking if num_rows is None else ranking.top(num_rows), as_json=as_json)


@app.command()
def best_ensemble(
    sweeps: Sweeps = None,
    k: Annotated[int, typer.Option("--k", min=1, help="How many members at most.")] = 4,
    exactly: Annotated[bool, typer.Option("--exactly", help="Exactly k members, even where fewer are better.")] = False,
    search: Annotated[SearchKind, typer.Option(help="auto tries all sets where they are few, else swaps.")] = SearchKind.auto,
    combine: Annotated[Combine, typer.Option(help="Mean of the probabilities, or votes.")] = Combine.arithmetic,
    arch: Annotated[list[str] | None, typer.Option(help="Only of this architecture; may be repeated.")] = None,
    tag: Annotated[list[str] | None, typer.Option(metavar="NAME=VALUE", help="Only with this tag or parameter.")] = None,
    max_params: Annotated[float | None, typer.Option(min=1, help="Parameters of all members, such as 20e6.")] = None,
    max_latency: Annotated[float | None, typer.Option(min=0, help="Milliseconds of all members for one picture.")] = None,
    stack: Annotated[bool, typer.Option("--stack", help="Beside it, what learned combinations would be worth.")] = False,
    as_json: AsJson = False,
) -> None:
    """Choose the trials whose mean prediction is best, and say how much of the gain is real."""
    from orchestrator.ensemble.best import best_ensemble as choose
    from orchestrator.ensemble.candidates import Wanted, parse_tag
    from orchestrator.state.home import Home
    from orchestrator.tracking.location import TrackingLocation
    from orchestrator.tracking.reader.runs import RunReader

    home = Home.from_environment()
    reader = RunReader(TrackingLocation.of(home))
    wanted = Wanted(tuple(arch or ()), tuple(parse_tag(text) for text in tag or ()), max_params, max_latency)
    report = choose(
        reader,
        or_latest(sweeps, reader),
        cache=home.cache,
        k=k,
        exactly=exactly,
        search=search.value,
        mean=combine.value,
        wanted=wanted,
        stack=stack,
    )
    print_report(report, as_json=as_json)


@app.command()
def compare(
    first: Annotated[str, typer.Argument(metavar="A", help="A run's id, a trial's key, a configuration's id, or a name.")],
    second: Annotated[str, typer.Argument(metavar="B", help="The same; a name without its seed means all its seeds.")],
    sweeps: Annotated[list[str] | None, typer.Option("--sweep", metavar="SWEEP", help="Look here only; may be repeated.")] = None,
    as_json: AsJson = False,
) -> None:
    """Say whether A is better than B on the same validation images, and how sure that is."""
    from orchestrator.analysis.compare import compare_runs
    from orchestrator.state.home import Home
    from orchestrator.tracking.location import TrackingLocation
    from orchestrator.tracking.reader.runs import RunReader

    home = Home.from_environment()
    reader = RunReader(TrackingLocation.of(home))
    print_report(compare_runs(reader, (first, second), sweeps or (), cache=home.cache), as_json=as_json)


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
    from orchestrator.ensemble.predict.predict import predict as predict_pictures
    from orchestrator.state.home import Home

    home, flips = Home.from_environment(), None if tta is None else tta.value
    report = predict_pictures(model, source, out=out, home=home, flips=flips, batch_size=batch_size, device=device)  # type: ignore[arg-type]  # mypy takes an enum's values for any str
    print_report(report, as_json=as_json)


@app.command()
def export(
    model: ModelName,
    out: Annotated[Path | None, typer.Option(help="Save it as this folder instead of logging it to the run.")] = None,
    as_json: AsJson = False,
) -> None:
    """Log a run, an ensemble or a checkpoint as an MLflow model that can be loaded and served."""
    from orchestrator.ensemble.predict.export import export as export_model
    from orchestrator.state.home import Home

    print_report(export_model(model, home=Home.from_environment(), out=out), as_json=as_json)


@app.command()
def report(
    name: Annotated[str | None, typer.Argument(metavar="SWEEP", help="Name of a sweep; default: the latest.")] = None,
    out: Annotated[Path | None, typer.Option(metavar="FILE.html", help="Write one HTML file instead of printing.")] = None,
    as_json: AsJson = False,
) -> None:
    """Print a sweep's table: a line a row or configuration over its seeds, ensembles in their place, published figures beside."""
    from orchestrator.analysis.report.report import make_report
    from orchestrator.state.home import Home
    from orchestrator.tracking.location import TrackingLocation
    from orchestrator.tracking.reader.runs import RunReader

    home = Home.from_environment()
    print_report(make_report(RunReader(TrackingLocation.of(home)), name, out=out, cache=home.cache), as_json=as_json)


@app.command()
def ui(
    name: Annotated[str | None, typer.Argument(metavar="SWEEP", help="Name of a sweep; default: the latest.")] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port on 127.0.0.1; 0 takes a free one.")] = 0,
) -> None:
    """Show MLflow's page, sorted by val/miou, until Ctrl-C."""
    from orchestrator.state.home import Home
    from orchestrator.tracking.location import TrackingLocation
    from orchestrator.tracking.ui import open_page

    signal.signal(signal.SIGTERM, lambda _number, _frame: sys.exit(143))  # so that the server ends with us
    page = open_page(TrackingLocation.of(Home.from_environment()), name, port=port)
    try:
        print(f"{page.url}\nCtrl-C ends it." if page.process else page.url, flush=True)
        page.wait()
    finally:
        page.close()
