"""`orchestrate data`: checks, shows and makes data sets."""

from pathlib import Path
from typing import Annotated

import typer

from orchestrator.cli.options import AsJson, print_report

app = typer.Typer(name="data", help="Check, show or make a data set.", no_args_is_help=True, rich_markup_mode=None)

Source = Annotated[str, typer.Argument(metavar="SOURCE", help="synthetic, a .npz file, or a folder with images/ and masks/.")]
DataOptions = Annotated[
    list[str] | None, typer.Option("--set", metavar="data.a=b", help="Set a field of `data` as in a sweep file; repeatable.")
]


@app.command()
def check(
    source: Source,
    overrides: DataOptions = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="SHEET.png|.html", help="Contact sheet (default: NAME-check.png here; with --json none)."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Find outliers, duplicates, imbalance and odd images. The field `data.clean` reads the JSON document."""
    from orchestrator.operations.data.check import check_data

    default = None if as_json else Path(f"{Path(source).stem}-check.png")
    print_report(check_data(source, overrides or [], out=out or default), as_json=as_json)


@app.command()
def show(
    source: Source,
    positions: Annotated[list[int], typer.Argument(metavar="INDEX...", help="Positions in the source, from 0.")],
    overrides: DataOptions = None,
    out: Annotated[Path | None, typer.Option(metavar="FILE.png", help="File to write (default: NAME-INDEX.png here).")] = None,
) -> None:
    """Draw image, mask and overlay side by side."""
    from orchestrator.operations.data.show import show_data

    target = out or Path(f"{Path(source).stem}-{positions[0]}.png")
    show_data(source, positions, overrides or [], out=target)
    print(target)


@app.command()
def make(
    out: Annotated[Path, typer.Argument(metavar="FILE.npz", help="File to write.")],
    num_images: Annotated[int | None, typer.Option(help="Number of images.")] = None,
    height: Annotated[int | None, typer.Option(help="Height in pixels.")] = None,
    width: Annotated[int | None, typer.Option(help="Width in pixels.")] = None,
    seed: Annotated[int | None, typer.Option(help="Another seed makes other images of the same kind.")] = None,
    outlier_fraction: Annotated[float | None, typer.Option(help="Share of images to corrupt.")] = None,
) -> None:
    """Write the synthetic data set as a .npz file. It holds training_set (N, 2, H, W); defaults are those of data.synthetic."""
    from orchestrator.operations.data.make import make_data

    given = {"num_images": num_images, "height": height, "width": width, "seed": seed, "outlier_fraction": outlier_fraction}
    print(make_data(out, {name: value for name, value in given.items() if value is not None}))
