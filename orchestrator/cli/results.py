"""Commands that show the results of sweeps, and use their models."""

import signal
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from orchestrator.cli.options import AsJson, LatestSweep, Sweeps, open_reader, or_latest, print_report

app = typer.Typer()

SearchName = Literal["auto", "greedy", "weighted", "swap", "beam", "exhaustive"]
Mean = Literal["arithmetic", "geometric", "vote"]
Flips = Literal["none", "horizontal", "both"]

ModelName = Annotated[
    str,
    typer.Argument(
        metavar="RUN_OR_ENSEMBLE",
        help="Run id, trial key or its beginning, path of a checkpoint, or a sweep for its latest chosen ensemble.",
    ),
]


@app.command()
def leaderboard(
    sweeps: Sweeps = None,
    top: Annotated[int | None, typer.Option(min=1, help="Show the first N (default: 100; with --json all).")] = None,
    as_json: AsJson = False,
) -> None:
    """Rank trials with 95 % confidence intervals, and mark ties."""
    from orchestrator.analysis.leaderboard import DRAWN_ROWS, load_leaderboard

    home, reader = open_reader()
    ranking = load_leaderboard(reader, or_latest(sweeps, reader), cache=home.cache)
    num_rows = DRAWN_ROWS if top is None and not as_json else top
    print_report(ranking if num_rows is None else ranking.top(num_rows), as_json=as_json)


@app.command()
def best_ensemble(
    sweeps: Sweeps = None,
    k: Annotated[int, typer.Option("--k", min=1, help="Maximum number of members.")] = 4,
    exactly: Annotated[bool, typer.Option("--exactly", help="Choose exactly k members, even if fewer are better.")] = False,
    search: Annotated[SearchName, typer.Option(help="auto: exhaustive if there are few sets, else swap.")] = "auto",
    combine: Annotated[Mean, typer.Option(help="Mean of the members' probabilities, or vote.")] = "arithmetic",
    arch: Annotated[list[str] | None, typer.Option(help="Use only trials of this architecture; repeatable.")] = None,
    tag: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="Use only trials with this tag or parameter; repeatable.")
    ] = None,
    max_params: Annotated[
        float | None, typer.Option(min=1, help="Limit of the parameters of all members together, such as 20e6.")
    ] = None,
    max_latency: Annotated[
        float | None, typer.Option(min=0, help="Limit of the latency of all members together, in ms per image.")
    ] = None,
    stack: Annotated[bool, typer.Option("--stack", help="Evaluate learned combinations (stacking) too.")] = False,
    as_json: AsJson = False,
) -> None:
    """Choose the best ensemble, and report its gain. The gain over the best single trial is cross-fitted, with a 95 % CI."""
    from orchestrator.ensemble.best import EnsembleOptions
    from orchestrator.ensemble.best import best_ensemble as choose
    from orchestrator.ensemble.candidates import Wanted, parse_tag

    home, reader = open_reader()
    wanted = Wanted(tuple(arch or ()), tuple(parse_tag(text) for text in tag or ()), max_params, max_latency)
    options = EnsembleOptions(k=k, exactly=exactly, search=search, mean=combine, wanted=wanted, stack=stack)
    print_report(choose(reader, or_latest(sweeps, reader), options, cache=home.cache), as_json=as_json)


@app.command()
def compare(
    first: Annotated[
        str,
        typer.Argument(metavar="A", help="Run id, trial key, configuration id or name; without its seed, all its seeds."),
    ],
    second: Annotated[str, typer.Argument(metavar="B", help="Like A.")],
    sweeps: Annotated[list[str] | None, typer.Option("--sweep", metavar="SWEEP", help="Look only here; repeatable.")] = None,
    as_json: AsJson = False,
) -> None:
    """Test whether A is better than B on the same images."""
    from orchestrator.analysis.compare import compare_runs

    home, reader = open_reader()
    print_report(compare_runs(reader, (first, second), sweeps or (), cache=home.cache), as_json=as_json)


@app.command()
def predict(
    model: ModelName,
    source: Annotated[Path, typer.Argument(metavar="INPUT", help="A .npz file, or a folder of images.")],
    out: Annotated[Path, typer.Option(help="FILE.npz, FILE.csv (one row per image), or a folder for PNG masks.")],
    tta: Annotated[Flips | None, typer.Option(help="Average over mirror images (default: as in validation).")] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Images per batch (default: as in validation).")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda or cuda:1 (default: the first GPU, else the CPU).")] = None,
    as_json: AsJson = False,
) -> None:
    """Predict masks of images with a run, ensemble or checkpoint."""
    from orchestrator.ensemble.predict.predict import predict as predict_masks
    from orchestrator.state.home import Home

    home = Home.from_environment()
    report = predict_masks(model, source, out=out, home=home, flips=tta, batch_size=batch_size, device=device)
    print_report(report, as_json=as_json)


@app.command()
def export(
    model: ModelName,
    out: Annotated[Path | None, typer.Option(help="Save the model in this folder instead of logging it.")] = None,
    as_json: AsJson = False,
) -> None:
    """Log a run, ensemble or checkpoint as an MLflow model. MLflow can load and serve it."""
    from orchestrator.ensemble.predict.export import export as export_model
    from orchestrator.state.home import Home

    print_report(export_model(model, home=Home.from_environment(), out=out), as_json=as_json)


@app.command()
def report(
    name: LatestSweep = None,
    out: Annotated[Path | None, typer.Option(metavar="FILE.html", help="Write one HTML file instead of printing.")] = None,
    as_json: AsJson = False,
) -> None:
    """Print results per configuration, averaged over seeds. Includes ensembles and published values."""
    from orchestrator.analysis.report.report import make_report

    home, reader = open_reader()
    print_report(make_report(reader, name, out=out, cache=home.cache), as_json=as_json)


@app.command()
def ui(
    name: LatestSweep = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port on 127.0.0.1; 0 takes a free one.")] = 0,
) -> None:
    """Serve MLflow's page, sorted by val/miou, until Ctrl-C."""
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
