"""The commands: reads options, calls the room that does the work, prints; imports heavy modules only inside them.

Standard output is for results (and for the one JSON document of ``--json``), standard error for logs and progress.
Exit codes: 0 done, 1 some trials failed or were left because the disk was full, 2 bad input or refused, 130 interrupted.
"""

from __future__ import annotations

import sys

import typer

from orchestrator.cli import data, results
from orchestrator.cli import maintenance as upkeep
from orchestrator.cli import sweeps as running
from orchestrator.errors import OrchestrateError

app = typer.Typer(
    name="orchestrate",
    help="Sweeps of segmentation experiments on every GPU there is, one leaderboard, and the best ensemble out of them.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for commands in (running, results, upkeep):
    app.add_typer(commands.app)
app.add_typer(data.app)


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
