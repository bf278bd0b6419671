"""The commands: each reads its options, calls the package that does the work, and prints; heavy imports stand inside functions.

options.py      options that several commands share, and how results are printed
sweeps.py       sweep, worker, status, stop, retry, schedule
results.py      leaderboard, best-ensemble, compare, predict, export, report, ui
maintenance.py  sync, clean, doctor
data.py         data check, data show, data make
scheduled.py    entry point of a sweep that the scheduler starts
__main__.py     python -m orchestrator.cli

Standard output holds results, or the one JSON document of ``--json``; logs and progress go to standard error.
Exit codes: 0 done, 1 some trials failed or wait because the disk is full, 2 bad input or refused, 130 interrupted.
"""

import sys

import typer

from orchestrator.cli import data, maintenance, results, sweeps
from orchestrator.errors import OrchestrateError

app = typer.Typer(
    name="orchestrate",
    help="Run sweeps of segmentation experiments on all GPUs, rank them, and build the best ensemble.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"max_content_width": 100},
)
for commands in (sweeps, results, maintenance, data):
    app.add_typer(commands.app)


def main() -> None:
    """Run a command. A user's error is one message and exit code 2, never a traceback."""
    try:
        app()
    except OrchestrateError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
