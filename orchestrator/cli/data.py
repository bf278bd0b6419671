"""`orchestrate data`: look at a data set before training on it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from orchestrator.cli.options import AsJson, print_report

app = typer.Typer(name="data", help="Look at a data set before training on it.", no_args_is_help=True, rich_markup_mode=None)


Source = Annotated[str, typer.Argument(metavar="SOURCE", help="synthetic, a .npz, or a folder with images/ and masks/.")]
DataOptions = Annotated[
    list[str] | None, typer.Option("--set", metavar="data.a=b", help="How it is read, as in a sweep file; may be repeated.")
]


@app.command()
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
    from orchestrator.operations.data.check import check_data

    default = None if as_json else Path(f"{Path(source).stem}-check.png")
    print_report(check_data(source, overrides or [], out=out or default), as_json=as_json)


@app.command()
def show(
    source: Source,
    positions: Annotated[list[int], typer.Argument(metavar="INDEX...", help="Positions in the source, from 0.")],
    overrides: DataOptions = None,
    out: Annotated[Path | None, typer.Option(metavar="FILE.png", help="Default: NAME-INDEX.png here.")] = None,
) -> None:
    """Draw picture, mask and overlay side by side."""
    from orchestrator.operations.data.show import show_data

    target = out or Path(f"{Path(source).stem}-{positions[0]}.png")
    show_data(source, positions, overrides or [], out=target)
    print(target)


@app.command()
def make(
    out: Annotated[Path, typer.Argument(metavar="FILE.npz")],
    num_images: Annotated[int | None, typer.Option(help="Tiles.")] = None,
    height: Annotated[int | None, typer.Option(help="Pixels.")] = None,
    width: Annotated[int | None, typer.Option(help="Pixels.")] = None,
    seed: Annotated[int | None, typer.Option(help="Other tiles of the same kind.")] = None,
    outlier_fraction: Annotated[float | None, typer.Option(help="Share of tiles that are tampered with.")] = None,
) -> None:
    """Write the synthetic set as a .npz with training_set (N, 2, H, W); defaults as of data.synthetic."""
    from orchestrator.operations.data.make import make_data

    given = {"num_images": num_images, "height": height, "width": width, "seed": seed, "outlier_fraction": outlier_fraction}
    print(make_data(out, {name: value for name, value in given.items() if value is not None}))
