"""Sweeps whose processes are killed at random, again and again, come to what they would have come to in peace.

ORCHESTRATE_CHAOS_KILLS says how many kills there are in all; ORCHESTRATE_CHAOS_SEED, which is printed, repeats the choices of an
earlier run, though not its moments to the millisecond.
"""

from __future__ import annotations

import os
import random
import time
from collections import Counter
from pathlib import Path

import pytest

from orchestrator.state.trial.folder import TrialFolder
from tests.chaos.conftest import Undisturbed
from tests.chaos.invariants import check_document, check_folder, check_ledger, check_mlflow, check_study
from tests.chaos.scene import Scene
from tests.chaos.storm import Storm

NUM_KILLS = int(os.environ.get("ORCHESTRATE_CHAOS_KILLS", "15"))

KILLS_A_SWEEP = 8
"""At most; one that is done before is followed by another."""


@pytest.mark.chaos
@pytest.mark.timeout(600 + 90 * NUM_KILLS)
@pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")  # mlflow 3.17, SQLAlchemy 2.1
def test_kills_change_nothing(undisturbed: Undisturbed, empty_database: Path, tmp_path: Path) -> None:
    """Every trial once, complete, the same bit for bit; ledger, Optuna and MLflow agree; no orphan, no metric missing."""
    seed = int(os.environ.get("ORCHESTRATE_CHAOS_SEED") or random.SystemRandom().randrange(2**32))
    print(
        f"\nORCHESTRATE_CHAOS_SEED={seed}: {NUM_KILLS} kills; undisturbed, the sweep takes {undisturbed.wall_s:.0f} s", flush=True
    )
    rng, counts, began_s, number, num_resumed = random.Random(seed), Counter[str](), time.monotonic(), 0, 0
    while (left := NUM_KILLS - counts.total()) > 0:
        scene = Scene(tmp_path / f"scene {number}", database=empty_database if number % 2 == 0 else None)
        print(f"sweep {number}, MLflow {'as a server' if scene.server else 'embedded'}", flush=True)
        try:
            storm = Storm(scene, rng, min(left, KILLS_A_SWEEP), pause_s=undisturbed.wall_s / 3)
            storm.rage()
            _check(scene, undisturbed)
        finally:
            scene.clear()
        num_resumed += scene.num_resumed()
        counts.update(blow.kind for blow in storm.blows)
        number += 1
    print(f"{counts.total()} kills of {number} sweeps in {time.monotonic() - began_s:.0f} s, {num_resumed} attempts resumed:")
    print(", ".join(f"{kind} {count}" for kind, count in sorted(counts.items())), flush=True)


def _check(scene: Scene, undisturbed: Undisturbed) -> None:
    """Run the sweep once more in peace: it has nothing to train, and sends what a dead server has missed."""
    ended = scene.run()
    assert ended.code == 0, ended.stderr
    check_document(ended.document, undisturbed.document)
    check_ledger(scene, undisturbed.keys)
    check_study(scene, undisturbed.num_configurations)
    for key in sorted(undisturbed.keys):
        check_folder(TrialFolder(scene.home.trial_folder(key)), undisturbed.folder(key))
    check_mlflow(scene, undisturbed.keys)
    assert not scene.wait_for_silence()
