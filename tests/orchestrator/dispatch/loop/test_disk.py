"""A disk that is full, or will be soon."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from orchestrator.errors import LaunchError
from orchestrator.launchers.local import LocalLauncher
from orchestrator.launchers.worker.contract import ExitCode
from orchestrator.spec.sections import LimitsSpec
from orchestrator.state.home import Home
from orchestrator.state.ledger import Ledger
from orchestrator.state.trial.failures import FailureKind
from orchestrator.state.trial.records import TrialSpec, TrialState
from tests.orchestrator.conftest import mounted
from tests.orchestrator.dispatch.loop.conftest import Bench, Point, ScriptedJob, ScriptedLauncher, complete, points, states_of

SMALL = {"arch": "Unet", "encoder": "timm-mobilenetv3_small_100", "arch_options": {"decoder_channels": [16, 16, 16, 16, 16]}}
"""About 1.2 million parameters: weights of 5 MB, a checkpoint of 15."""

NO_FLOOR = LimitsSpec(free_disk_gb=0)


def free_gb(bench: Bench) -> float:
    """Free space of the home's disk."""
    return shutil.disk_usage(bench.home.root).free / 1e9


def test_without_room_for_one_trial_nothing_is_started(bench: Bench) -> None:
    """The error says what is free, what is needed, where, and what to do; nothing is claimed."""
    launcher = ScriptedLauncher(complete)
    with pytest.raises(LaunchError, match=r"GB are free .*limits.free_disk_gb.*Free some disk") as caught:
        bench.run(points("a"), launcher, limits=LimitsSpec(free_disk_gb=free_gb(bench) + 10))
    assert str(bench.home.root) in str(caught.value)
    assert launcher.launched == []
    assert bench.state_of("a") is TrialState.WAITING


def test_the_sweep_ends_before_the_disk_is_full(bench: Bench) -> None:
    """Running trials finish; the others wait, and the outcome says why."""

    def script(job: ScriptedJob) -> int:
        with open(job.folder / "best.safetensors", "wb") as file:
            file.truncate(int(2 * free_gb(bench) * 1e9))  # takes no space, but says that a trial takes more than there is
        return complete(job)

    outcome = bench.run(points(*"abc"), ScriptedLauncher(script, num_slots=1), limits=NO_FLOOR)
    assert outcome.trials[0].state is TrialState.COMPLETE
    assert {trial.state for trial in outcome.trials[1:]} <= {TrialState.WAITING}
    assert bench.state_of("b") is TrialState.WAITING
    assert "GB for each of 1 trials" in (outcome.halted or "")
    assert not outcome.interrupted


def test_a_worker_without_space_stops_the_launches(bench: Bench) -> None:
    """It is not the trial's failure: the trial waits, and no retry is counted."""
    launcher = ScriptedLauncher(lambda job: ExitCode.DISK_FULL if job.folder.name == "a" else complete(job), num_slots=1)
    outcome = bench.run(points(*"ab"), launcher)
    assert launcher.launched == ["a"]
    assert outcome.trials[0].state is TrialState.WAITING
    assert "disk is full" in (outcome.halted or "")
    assert bench.state_of("a") is TrialState.WAITING


@pytest.fixture
def tight_bench(tmp_path: Path) -> Iterator[Bench]:
    """A home on a disk of 12 MiB."""
    root = tmp_path / "home"
    root.mkdir()
    with mounted(root, "12m"):
        home = Home(root)
        with home.new_owner() as owner:
            yield Bench(home, Ledger(home.ledger_url), owner.name)


def test_a_real_worker_without_space(
    tight_bench: Bench, local_launcher: LocalLauncher, make_spec: Callable[..., TrialSpec], tiny_data: Path
) -> None:
    """Its checkpoint does not fit: complete files stay, partial ones are removed, and with more space the trial finishes."""
    trials = [make_spec(seed=seed, epochs=2, **SMALL) for seed in (0, 1)]
    proposals = [Point(str(trial.seed), (trial,)) for trial in trials]
    local = {"data_folder": tiny_data, "limits": NO_FLOOR}
    outcome = tight_bench.run(proposals[:1], local_launcher, **local)
    assert states_of(outcome) == {trials[0].key: TrialState.WAITING}
    assert "disk is full" in (outcome.halted or "")
    folder = tight_bench.folder(trials[0].key)
    last = folder.events()[0][-1]
    assert (last.state, last.failure) == (TrialState.WAITING, FailureKind.DISK_FULL)
    assert "Traceback" in folder.log_tail()
    assert {path.name for path in folder.path.iterdir()} == {
        "trial.json", "attempt.json", "progress.jsonl", "log.txt", "heartbeat", "lock", "best.safetensors",
    }  # fmt: skip
    subprocess.run(["mount", "-o", "remount,size=100m", str(tight_bench.home.root)], check=True)
    outcome = tight_bench.run(proposals, local_launcher, **local)
    assert [(trial.state, trial.attempts) for trial in outcome.trials] == [(TrialState.COMPLETE, 2), (TrialState.COMPLETE, 1)]


def test_a_disk_on_which_nothing_can_be_written(
    tight_bench: Bench,
    local_launcher: LocalLauncher,
    make_spec: Callable[..., TrialSpec],
    tiny_data: Path,
    user_code: Path,
) -> None:
    """Neither by the worker nor by the ledger: the sweep ends with a message, and the next one resumes it."""
    filler = tight_bench.home.root / "filler"
    trial = make_spec(loss={"name": "provoking:Filling", "options": {"file": str(filler)}}, **SMALL)
    local = {"data_folder": tiny_data, "limits": NO_FLOOR}
    try:
        outcome = tight_bench.run([Point("one", (trial,))], local_launcher, **local)
        said = outcome.halted or ""
    except LaunchError as error:
        said = str(error)
    assert "disk is full" in said
    assert tight_bench.folder(trial.key).result() is None
    subprocess.run(["mount", "-o", "remount,size=100m", str(tight_bench.home.root)], check=True)
    with tight_bench.home.new_owner() as owner:
        tight_bench.ledger.reclaim(lambda name: name == tight_bench.owner)  # as after its end, should it still hold the trial
        tight_bench.owner = owner.name
        [again] = tight_bench.run([Point("one", (trial,))], local_launcher, **local).trials
    assert (again.state, again.attempts) == (TrialState.COMPLETE, 2)
