"""Ensembles of members named beforehand: what they are worth, when they cannot be formed, and that nothing is computed twice."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from orchestrator.analysis.stats import compute_miou
from orchestrator.ensemble.fixed import EnsembleOutcome, MemberTrial, evaluate_ensembles, evaluate_fixed, make_record
from orchestrator.errors import EnsembleError, TrackingError
from orchestrator.planning.configuration import Configuration, Facts
from orchestrator.planning.plan import Plan, PlannedEnsemble, PlannedTrial
from orchestrator.state.trial.outputs import write_predictions
from orchestrator.state.trial.records import TrialResult, TrialSpec, TrialState
from orchestrator.tracking.tags import RunLabel
from trainers.config import DataConfig, Fold, TrainConfig
from trainers.metrics import confusion_per_image

LABELS = np.random.default_rng(0).integers(0, 3, (10, 8, 8)).astype(np.uint8)


def predict(seed: int) -> np.ndarray:
    """Probabilities that see the truth through noise."""
    random = np.random.default_rng(seed)
    truth = np.stack([c == LABELS for c in range(3)], axis=1)
    return (truth * 60 + random.uniform(0, 190, truth.shape)).astype(np.uint8)


def store(folder: Path, predictions: np.ndarray, *, fingerprint: str = "s" * 16) -> Path:
    """A trial folder as far as ensembles look into it."""
    folder.mkdir()
    write_predictions(folder, predictions, LABELS, ignore_classes=(0,), scored_fingerprint=fingerprint)
    return folder


def score(*members: np.ndarray) -> float:
    """MIoU of the mean of some predictions, in plain numpy."""
    predicted = np.sum([m.astype(np.int64) for m in members], axis=0).argmax(axis=1)
    return compute_miou(confusion_per_image(predicted, LABELS, num_classes=3, ignore_classes=(0,)), (0,))


def test_the_mean_is_that_of_the_stored_probabilities(tmp_path: Path) -> None:
    """Equal weights, as computed with plain numpy; compared with the best member alone."""
    members = {f"k{i}": predict(i) for i in range(3)}
    folders = {key: store(tmp_path / key, predictions) for key, predictions in members.items()}
    result = evaluate_fixed(folders, names={k: k for k in folders}, folder=tmp_path / "out", cache=tmp_path / "cache")
    singles = {key: score(predictions) for key, predictions in members.items()}
    assert result.miou == score(*members.values())
    assert (result.best_member, result.best_member_miou) == max(singles.items(), key=lambda pair: pair[1])
    assert result.gain_over_best_member == result.miou - result.best_member_miou
    assert result.ci95[0] < result.miou < result.ci95[1]
    assert result.gain_ci95[0] <= result.gain_over_best_member <= result.gain_ci95[1]
    assert np.isnan(result.class_iou[0])
    assert np.nanmean(result.class_iou) == pytest.approx(result.miou)


def test_equal_members_count_each(tmp_path: Path) -> None:
    """Two trials that predict the same weigh twice: the members are those of the file."""
    first, second = predict(0), predict(1)
    folders = {"a": store(tmp_path / "a", first), "b": store(tmp_path / "b", first), "c": store(tmp_path / "c", second)}
    result = evaluate_fixed(folders, names={k: k for k in folders}, folder=tmp_path / "out", cache=tmp_path / "cache")
    assert result.miou == score(first, first, second)
    assert result.members == ("a", "b", "c")


def test_members_scored_on_other_images_are_refused(tmp_path: Path) -> None:
    """By name, and nothing is kept."""
    folders = {"a": store(tmp_path / "a", predict(0)), "b": store(tmp_path / "b", predict(1), fingerprint="t" * 16)}
    with pytest.raises(EnsembleError, match=r"ssss.*one; tttt.*two"):
        evaluate_fixed(folders, names={"a": "one", "b": "two"}, folder=tmp_path / "out", cache=tmp_path / "cache")
    assert not (tmp_path / "out").exists()


class Sweep:
    """A plan of rows 1 and 2 and of their ensemble 3, with the trials' folders."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.asked: list[str] = []
        self.trials = [self._plan_trial(key, row) for row, key in enumerate(("a", "b"), start=1)]
        ensemble = PlannedEnsemble(3, "3: both", 0.6, (1, 2), tuple(self.trials), class_names=("void", "one", "two"))
        self.plan = Plan("s", Facts(), (), tuple(self.trials), open_ended=False, ensembles=(ensemble,))

    def _plan_trial(self, key: str, row: int) -> PlannedTrial:
        train, data = TrainConfig(), DataConfig()
        spec = TrialSpec(key=key, configuration=key, name=f"row {row}", train=train, data=data, seed=0, source_fingerprint="f")
        configuration = Configuration(train, data, {"row": row}, f"row {row}", key)
        return PlannedTrial(spec, configuration, 0, self.folder / "data", RunLabel(spec.name), TrialState.CACHED)

    def end(self, **changes: MemberTrial) -> dict[str, MemberTrial]:
        """All trials are done, but for the changes."""
        done = {
            key: TrialResult(key=key, state=TrialState.COMPLETE, scored_fingerprint="s" * 16, attempt=1, started_s=0, ended_s=1)
            for key in ("a", "b")
        }
        return {key: MemberTrial(TrialState.COMPLETE, result) for key, result in done.items()} | changes

    def evaluate(self, members: dict[str, MemberTrial], find: Callable[[TrialSpec], Path] | None = None) -> EnsembleOutcome:
        """What becomes of the ensemble."""

        def find_here(spec: TrialSpec) -> Path:
            self.asked.append(spec.key)
            return self.folder / spec.key

        (outcome,) = evaluate_ensembles(self.plan, members, cache=self.folder / "cache", find_predictions=find or find_here)
        return outcome


@pytest.fixture
def sweep(tmp_path: Path) -> Sweep:
    """With predictions of both rows."""
    for i, key in enumerate(("a", "b")):
        store(tmp_path / key, predict(i))
    return Sweep(tmp_path)


def test_an_ensemble_is_evaluated_once(sweep: Sweep) -> None:
    """The second time its values are the same and no prediction is read."""
    first = sweep.evaluate(sweep.end())
    second = sweep.evaluate(sweep.end())
    assert (first.state, second.state) == ("COMPLETE", "CACHED")
    assert second.to_json_with_result(None) | {"state": "COMPLETE"} == first.to_json_with_result(None)
    assert sweep.asked == ["a", "b"]


def test_the_document_is_complete(sweep: Sweep) -> None:
    """Values by class name, the published value, members as keys."""
    document = sweep.evaluate(sweep.end()).to_json_with_result("run-1")
    assert (document["id"], document["members"], document["rows"]) == (3, ["a", "b"], [1, 2])
    assert (document["reported"], document["run_id"]) == (0.6, "run-1")
    assert list(document["class_iou"]) == ["one", "two"]
    assert document["miou"] == score(predict(0), predict(1))


@pytest.mark.parametrize(
    ("member", "state", "reason"),
    [
        (MemberTrial(TrialState.FAILED, None, "no memory"), "MISSING", r"row 2 is FAILED \(no memory\)"),
        (MemberTrial(TrialState.WAITING), "WAITING", "waits for row 2"),
    ],
)
def test_an_ensemble_names_the_member_it_lacks(sweep: Sweep, member: MemberTrial, state: str, reason: str) -> None:
    """Nothing is formed of the others, and what is recorded says why."""
    outcome = sweep.evaluate(sweep.end(b=member))
    assert outcome.state == state
    with pytest.raises(EnsembleError, match=reason):
        raise EnsembleError(outcome.reason)
    record = make_record(outcome)
    assert (record.metrics, record.reason) == ({}, outcome.reason)


def test_lost_predictions_are_a_missing_member(sweep: Sweep) -> None:
    """A server that has not got them stops no sweep."""

    def find(spec: TrialSpec) -> Path:
        raise TrackingError(f"no predictions of {spec.name}")

    outcome = sweep.evaluate(sweep.end(), find)
    assert (outcome.state, outcome.reason) == ("MISSING", "no predictions of row 1")


def test_mixed_members_are_a_refusal(sweep: Sweep) -> None:
    """The sweep continues, and the ensemble says which member was scored on what."""
    write_predictions(sweep.folder / "b", predict(1), LABELS, ignore_classes=(0,), scored_fingerprint="t" * 16)
    outcome = sweep.evaluate(sweep.end())
    assert outcome.state == "REFUSED"
    assert "row 1; tttt" in (outcome.reason or "")


def test_folds_of_a_row_are_one_member(tmp_path: Path) -> None:
    """Two rows on two folds: their mean on the images of both folds, and the better row as best member."""
    sweep = Sweep(tmp_path)
    trials = []
    for row, trial in enumerate(sweep.trials):
        for index in range(2):
            key, half = f"{trial.spec.key}{index}", slice(5 * index, 5 * index + 5)
            folder = tmp_path / key
            folder.mkdir()
            fold = {"ignore_classes": (0,), "scored_fingerprint": f"fold{index}"}
            write_predictions(folder, predict(row)[half], LABELS[half], **fold)
            spec = trial.spec.model_copy(update={"key": key, "fold": Fold(index=index, count=2)})
            trials.append(dataclasses.replace(trial, spec=spec))
    ensemble = dataclasses.replace(sweep.plan.ensembles[0], members=tuple(trials))
    sweep.plan = dataclasses.replace(sweep.plan, trials=tuple(trials), ensembles=(ensemble,))
    members = {
        trial.spec.key: MemberTrial(
            TrialState.COMPLETE,
            TrialResult(key=trial.spec.key, state=TrialState.COMPLETE, scored_fingerprint="", attempt=1, started_s=0, ended_s=1),
        )
        for trial in trials
    }
    outcome = sweep.evaluate(members)
    assert (outcome.state, outcome.keys) == ("COMPLETE", ["a0", "a1", "b0", "b1"])
    assert outcome.result is not None
    assert outcome.result.miou == score(predict(0), predict(1))
    assert outcome.result.best_member == ("a-0" if score(predict(0)) >= score(predict(1)) else "b-0")
    assert make_record(outcome).members == dict.fromkeys(outcome.keys, 0.25)
    again = sweep.evaluate(members)
    assert again.state == "CACHED"
    assert again.to_json_with_result(None) | {"state": "COMPLETE"} == outcome.to_json_with_result(None)
