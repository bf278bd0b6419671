"""Two names on the command line -> a verdict, out of a real MLflow; what cannot be compared says why."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from orchestrator.analysis.compare import Comparison, compare_runs
from orchestrator.analysis.leaderboard import load_leaderboard
from orchestrator.analysis.report.report import load_table
from orchestrator.errors import TrackingError
from orchestrator.state.home import Home
from orchestrator.state.trial.folder import TrialFile, TrialFolder
from orchestrator.state.trial.records import Attempt, TrialResult, TrialSpec, TrialState
from orchestrator.tracking.location import TrackingLocation
from orchestrator.tracking.mirror.recorder import Recorder
from orchestrator.tracking.reader.runs import RunReader
from orchestrator.tracking.tags import EnsembleRecord
from tests.orchestrator.documented import documented_fields, fields_of
from trainers.config import DataConfig, Fold, TrainConfig

pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")  # mlflow 3.17, SQLAlchemy 2.1

GOOD, BAD, FOLDED = "aaaa000000000000", "bbbb000000000000", "cccc000000000000"


def make_matrices(seed: int, accuracy: float) -> np.ndarray:
    """(30, 3, 3), the first class ignored."""
    random = np.random.default_rng(seed)
    rows = [[0, 0, 0], [0, accuracy, 1 - accuracy], [0, 1 - accuracy, accuracy]]
    return np.stack([[random.multinomial(200, row) if sum(row) else row for row in rows] for _ in range(30)]).astype(np.int32)


def record(home: Home, sweep: str, spec: TrialSpec, matrices: np.ndarray, *, scored: str, state: TrialState) -> str:
    """A trial's run, as its dispatcher leaves it."""
    folder = TrialFolder(home.trial_folder(spec.key))
    folder.create(spec)
    folder.write_attempt(Attempt(number=1, data_folder="/nowhere"))
    np.savez(folder.path / TrialFile.CONFUSIONS, confusions=matrices, ignore_classes=np.array([0]))
    metrics = {"val/miou": 0.5, "val/iou/soil": 0.5, "val/iou/rock": 0.5}
    folder.write_result(
        TrialResult(
            key=spec.key, state=state, metrics=metrics, scored_fingerprint=scored, attempt=1, started_s=1.0, ended_s=2.0,
            reason=None if state is TrialState.COMPLETE else "RuntimeError: no",
        )
    )  # fmt: skip
    return Recorder(TrackingLocation.of(home)).send(sweep, folder, ended=True)


def make_spec(key: str, configuration: str, name: str, *, seed: int = 0, fold: Fold | None = None) -> TrialSpec:
    """A trial; only its names matter."""
    return TrialSpec(
        key=key, configuration=configuration, name=name, train=TrainConfig(), data=DataConfig(), seed=seed, fold=fold,
        source_fingerprint="f" * 16,
    )  # fmt: skip


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Home, dict[str, str]]:
    """Configurations of two seeds, of two folds and of both, a failure and an ensemble; run ids by name."""
    home = Home(tmp_path_factory.mktemp("home"))
    complete = TrialState.COMPLETE
    ids = {}
    for letter, configuration, label, accuracy in (("1", GOOD, "good", 0.9), ("2", BAD, "bad", 0.6)):
        for seed in (0, 1):
            spec = make_spec(f"{letter}{seed}" * 8, configuration, f"{label} seed {seed}", seed=seed)
            ids[spec.name] = record(home, "s", spec, make_matrices(seed, accuracy + seed / 100), scored="one", state=complete)
    for index in (0, 1):
        spec = make_spec(f"3{index}" * 8, FOLDED, f"good fold {index + 1}/2", fold=Fold(index=index, count=2))
        ids[spec.name] = record(home, "t", spec, make_matrices(index, 0.7), scored=f"fold{index}", state=complete)
    for letter, configuration, label, accuracy in (("5", "e" * 16, "high", 0.8), ("6", "f" * 16, "low", 0.79)):
        for seed, index in ((0, 0), (0, 1), (1, 0), (1, 1)):
            fold, name = Fold(index=index, count=2), f"{label} seed {seed} fold {index + 1}/2"
            spec = make_spec(f"{letter}{seed}{index}0" * 4, configuration, name, seed=seed, fold=fold)
            matrices = make_matrices(index, accuracy + seed / 20)
            ids[name] = record(home, "u", spec, matrices, scored=f"fold{index}", state=complete)
    record(home, "s", make_spec("4f" * 8, "d" * 16, "broken"), make_matrices(0, 0.5), scored="one", state=TrialState.FAILED)
    matrices = home.root / "confusions.npz"
    np.savez(matrices, confusions=make_matrices(0, 0.95), ignore_classes=np.array([0]))
    tags = {"scored_fingerprint": "one"}
    (ids["both"],) = Recorder(TrackingLocation.of(home)).log_table(
        "s", [EnsembleRecord("both", {"10" * 8: 1.0}, {}, {}, tags, (matrices,))]
    )
    return home, ids


def compare(runs: tuple[Home, dict[str, str]], first: str, second: str, *sweeps: str) -> Comparison:
    """As the command does."""
    home, _ = runs
    return compare_runs(RunReader(TrackingLocation.of(home)), (first, second), sweeps, cache=home.cache)


def test_the_better_configuration_is_named(runs) -> None:
    """By its two seeds together, for machines and for people, with each class under its name."""
    found = compare(runs, "good", "bad", "s")
    document = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert (document["first"]["seeds"], document["second"]["seeds"]) == ([0, 1], [0, 1])
    assert fields_of(document) == documented_fields("compare")
    assert document["ci95"][0] > 0
    assert document["probability_first_is_better"] > 0.99
    assert list(document["classes"]) == ["soil", "rock"]
    assert document["seed_spread"]["degrees"] == 2
    console = Console(width=200)
    with console.capture() as captured:
        console.print(found.render())
    assert "good is better than bad" in captured.get()
    assert "Student's t with 2 degrees" in captured.get()


def test_the_other_way_round_is_the_opposite(runs) -> None:
    """Antisymmetric, and the same sentence."""
    forward, backward = compare(runs, "good seed 0", "bad seed 0"), compare(runs, "bad seed 0", "good seed 0")
    assert (backward.miou.value, backward.miou.low) == pytest.approx((-forward.miou.value, -forward.miou.high))
    assert backward.verdict.startswith("good seed 0 is better than bad seed 0")


def test_a_run_is_found_by_its_id_its_key_or_a_beginning_of_it(runs) -> None:
    """And a configuration by its own id, or the beginning of that."""
    _, ids = runs
    for name in (ids["good seed 0"], "10" * 8, "10101", "good seed 0"):
        assert compare(runs, name, BAD[:4]).first.keys == ("10" * 8,)
    assert compare(runs, GOOD, ids["both"]).second.name == "both"


def test_leaderboard_comparison_and_report_agree(runs) -> None:
    """The same mIoU, 95 % CI and tie for each configuration of a sweep, be it of seeds or of folds and seeds."""
    home, _ = runs
    reader = RunReader(TrackingLocation.of(home))
    for sweep in ("s", "u"):
        board = load_leaderboard(reader, [sweep], cache=home.cache / sweep).configurations
        lines = {line.title: line for line in load_table(reader, sweep, cache=home.cache / "report").lines if line.result}
        assert [line.rank for line in lines.values()] == [1, 2]
        assert board[1].is_tied == (sweep == "u")
        for ranked in board:
            name, result = ranked.result.name, ranked.result
            found = compare(runs, board[0].result.name, name, sweep)
            described = found.to_json()["second"]
            assert (described["miou"], tuple(described["ci95"])) == (result.miou, ranked.ci95)
            assert (lines[name].miou, lines[name].ci95) == (result.miou, ranked.ci95)
            assert ranked.is_tied == lines[name].is_tied == (not found.miou.is_significant)


def test_the_same_twice_gives_no_evidence(runs) -> None:
    """A difference of 0, and the sentence says so."""
    found = compare(runs, "good seed 0", "good seed 0")
    assert (found.miou.value, found.miou.probability) == (0, 0.5)
    assert found.verdict.startswith("No evidence")


@pytest.mark.parametrize(
    ("first", "sweeps", "message"),
    [
        (FOLDED, (), r"cannot be compared: good was scored on 2 folds, bad on 1 fold\. A paired test needs"),
        ("good fold 1/2", (), r"scored on fold0, bad on one"),
        ("good", (), r"'good' means 2 configurations \(s: good seed 0 is aaaa0+, t: .*\)\. Give its id, or name one --sweep"),
        ("broken", (), r"broken is FAILED; only what is COMPLETE"),
        ("god", ("s",), r"'god' is not a known run or configuration.*Did you mean 'good'\?"),
        ("9999", ("s",), r"'9999' is not a known run"),
    ],
)
def test_what_cannot_be_compared_says_why(runs, first: str, sweeps: tuple[str, ...], message: str) -> None:
    """With what was found and what to do."""
    with pytest.raises(TrackingError, match=message):
        compare(runs, first, "bad", *sweeps)


def test_folds_are_compared_on_all_their_images(runs, tmp_path: Path) -> None:
    """A configuration with folds against itself: sixty images, none left out."""
    found = compare(runs, FOLDED[:6], FOLDED)
    assert len(found.first.confusions[0]) == 60
    assert found.first.left_out == ()
