"""The sweep that the server's tests run, and what the server says of it."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.compose.stack import Stack

NUM_EPOCHS = 12

SWEEP = f"""
name: {{name}}
data: {{{{source: synthetic, synthetic: {{{{num_images: 24, height: 32, width: 64}}}}, val_fraction: 0.25, ignore_classes: [0]}}}}
base: {{{{arch: FPN, encoder: timm-mobilenetv3_small_100, epochs: {NUM_EPOCHS}, batch_size: 6, precision: float32}}}}
search:
  method: grid
  space:
    loss: [{{{{name: focal}}}}, {{{{name: dice}}}}]
    optimizer.lr: {{lrs}}
seeds: [0, 1]
resources: {{{{slots: 1, threads_per_slot: 1}}}}
limits: {{{{free_disk_gb: 0, checkpoint_s: 0}}}}
"""


def write_sweep(folder: Path, name: str, *, lrs: str) -> str:
    """A sweep of four trials for each learning rate."""
    (folder / f"{name}.yaml").write_text(SWEEP.format(name=name, lrs=lrs))
    return f"{name}.yaml"


def wait_until(is_so: Callable[[], bool], *, at_most_s: float = 180) -> None:
    """Look twice a second."""
    deadline_s = time.monotonic() + at_most_s
    while not is_so():
        assert time.monotonic() < deadline_s
        time.sleep(0.5)


def num_complete(stack: Stack, sweep: str) -> int:
    """Trials of a sweep, by the ledger."""
    of_sweep = f"SELECT key FROM ledger_members WHERE sweep = '{sweep}'"
    return int(stack.query(f"SELECT count(*) FROM ledger_trials WHERE state = 'COMPLETE' AND key IN ({of_sweep})")[0])


def attempts(stack: Stack, sweep: str) -> Counter[int]:
    """How often a sweep's trials were claimed."""
    of_sweep = f"SELECT key FROM ledger_members WHERE sweep = '{sweep}'"
    return Counter(map(int, stack.query(f"SELECT attempt FROM ledger_trials WHERE key IN ({of_sweep})")))


def list_runs(stack: Stack, sweep: str) -> list[str]:
    """Status and number of epochs of each of the sweep's runs, as MLflow's database has them."""
    of_run = "SELECT count(DISTINCT step) FROM metrics WHERE metrics.run_uuid = runs.run_uuid AND key = 'epoch/val/miou'"
    runs = (
        f"SELECT status || ' ' || ({of_run}) FROM runs JOIN experiments USING (experiment_id) WHERE experiments.name = '{sweep}'"
    )
    return stack.query(runs.replace("' '", "'/'"), "mlflow")


def leaderboard(stack: Stack, sweep: str) -> Any:
    """As a machine reads it."""
    return json.loads(stack.orchestrate("leaderboard", sweep, "--json").stdout)
