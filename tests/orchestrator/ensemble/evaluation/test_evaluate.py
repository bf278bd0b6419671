"""The cross-fitted gain of an ensemble, and the library function that everybody can call."""

from __future__ import annotations

import json
import os
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from orchestrator.analysis.stats import compute_miou
from orchestrator.ensemble import select_ensemble
from orchestrator.ensemble.evaluation.diversity import measure_diversity
from orchestrator.ensemble.evaluation.evaluate import evaluate
from orchestrator.ensemble.selection.pool import Limit, Pool, SelectionRules
from orchestrator.errors import EnsembleError
from trainers.metrics import confusion_per_image
from trainers.prediction.means import Mean

NUM_IMAGES = 30


def make_candidates(seed: int, *, signal: float, num_candidates: int = 6) -> tuple[list[np.ndarray], np.ndarray]:
    """Candidates with independent noise: (N, 3, 8, 8) uint8 each, and labels (N, 8, 8)."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, 3, (NUM_IMAGES, 8, 8)).astype(np.uint8)
    truth = np.stack([labels == c for c in range(3)], axis=1)
    return [
        (truth * signal + random.uniform(0, 255 - signal, truth.shape)).astype(np.uint8) for _ in range(num_candidates)
    ], labels


def test_independent_errors_give_a_gain_with_evidence() -> None:
    """If models err independently, the CI of the gain is above 0, and the values are in order."""
    result = select_ensemble(*make_candidates(0, signal=80), k=4)
    assert len(result.members) > 1
    assert result.gain.low > 0
    assert result.ci95[0] < result.miou < result.ci95[1]
    assert sum(result.weights) == pytest.approx(1)


def test_pure_noise_gives_no_evidence() -> None:
    """Random candidates gain in sample, but the cross-fitted CI includes 0, and the report says so."""
    result = select_ensemble(*make_candidates(1, signal=0, num_candidates=12), k=4)
    assert result.miou_in_sample > result.miou
    assert not result.gain.is_significant
    console = Console(width=200, record=True, file=open("/dev/null", "w"))  # noqa: SIM115  rich writes a copy nobody needs
    console.print(result.render())
    console.file.close()
    assert "no evidence of a gain" in console.export_text()


@pytest.mark.long
def test_the_ci_of_the_gain_includes_0_for_noise() -> None:
    """Of 200 sets of random candidates at most 5 % exclude 0, within the chance variation of 200 (16)."""
    gains = [select_ensemble(*make_candidates(1000 + seed, signal=0), k=4).gain for seed in range(200)]
    assert sum(gain.is_significant for gain in gains) <= 16


def test_order_of_candidates_changes_nothing() -> None:
    """With keys, any order gives the same members, weights and values."""
    predictions, labels = make_candidates(2, signal=40)
    keys = [f"k{i}" for i in range(6)]
    shuffled = [3, 1, 5, 0, 2, 4]
    first = select_ensemble(predictions, labels, keys=keys)
    assert select_ensemble([predictions[i] for i in shuffled], labels, keys=[keys[i] for i in shuffled]) == first


def test_one_candidate_is_its_own_ensemble() -> None:
    """With a single candidate the gain is exactly 0."""
    predictions, labels = make_candidates(3, signal=60, num_candidates=1)
    result = select_ensemble(predictions, labels)
    assert (result.members, result.gain.value, result.miou) == (("0",), 0.0, result.miou_in_sample)


def test_groups_are_never_split() -> None:
    """With two groups, each is judged by what was chosen on the other alone."""
    predictions, labels = make_candidates(4, signal=40)
    groups = np.arange(NUM_IMAGES) // 15
    halves = [np.flatnonzero(groups == g) for g in (0, 1)]
    best = [select_ensemble([p[half] for p in predictions], labels[half], k=1).members[0] for half in halves]
    joined = [predictions[int(best[1 - g])][halves[g]] for g in (0, 1)]
    alone = select_ensemble([np.concatenate(joined)], np.concatenate([labels[half] for half in halves]), k=1)
    assert select_ensemble(predictions, labels, k=1, groups=groups).miou == pytest.approx(alone.miou_in_sample)


def test_files_are_read_as_arrays_are(tmp_path: Path) -> None:
    """Paths of .npy files give what the arrays give."""
    predictions, labels = make_candidates(5, signal=40)
    paths = [tmp_path / f"{i}.npy" for i in range(len(predictions))]
    for path, array in zip(paths, predictions, strict=True):
        np.save(path, array)
    assert select_ensemble(paths, labels) == select_ensemble(predictions, labels)


@pytest.mark.parametrize("mean", ["geometric", "vote"])
def test_other_means_and_searches_reach_the_report(mean: Mean) -> None:
    """The report says how members were searched for and combined; each member has a weight."""
    result = select_ensemble(*make_candidates(10, signal=40), k=3, search="weighted", mean=mean)
    assert (result.to_json()["search"], result.to_json()["mean"]) == ("weighted", mean)
    assert len(result.weights) == len(result.members)
    assert sum(result.weights) == pytest.approx(1)


def test_the_json_has_the_documented_fields() -> None:
    """Members, weights, both scores, both CIs, trajectory and run."""
    document = json.loads(json.dumps(select_ensemble(*make_candidates(6, signal=40), k=2).to_json(), allow_nan=False))
    assert {"members", "weights", "search", "mean",
            "miou_in_sample", "miou", "ci95", "gain_over_best_single", "gain_ci95", "gain_probability",
            "optimism", "trajectory", "trajectory_cross_fitted", "pays_up_to", "class_gains", "contributions", "disagreement",
            "oracle_miou", "best_single", "run_id"} <= set(document)  # fmt: skip


def test_the_last_step_is_the_headline() -> None:
    """The trajectory runs from the best single candidate to the ensemble; each step is compared with the one before."""
    result = select_ensemble(*make_candidates(0, signal=80), k=3)
    assert [step.k for step in result.steps] == [1, 2, 3]
    assert (result.steps[0].gain.value, result.steps[0].last) == (0, None)
    assert (result.steps[-1].miou, result.steps[-1].gain) == (result.cross_fitted, result.gain)
    assert [step.to_json()["probability"] for step in result.steps] == [step.gain.probability for step in result.steps]
    assert sum(step.last.value for step in result.steps[1:]) == pytest.approx(result.gain.value)
    assert result.optimism == result.miou_in_sample - result.miou


def test_gains_of_classes_add_up_to_the_gain() -> None:
    """Their mean over the scored classes is the gain in mIoU."""
    result = select_ensemble(*make_candidates(0, signal=80), k=3)
    assert sorted(result.class_gains) == [1, 2]
    assert np.mean([gain.value for gain in result.class_gains.values()]) == pytest.approx(result.gain.value)


def test_diversity_is_counted_pixel_by_pixel() -> None:
    """Disagreement and oracle as plain numpy has them, on scored pixels; a member that adds nothing is seen by leaving it out."""
    predictions, labels = make_candidates(0, signal=80)
    result = select_ensemble(predictions, labels, k=3, exactly=True)
    classes = np.stack([predictions[int(key)].argmax(axis=1) for key in result.members])
    scored = labels != 0
    assert result.diversity.disagreement[0][2] == np.mean(classes[0][scored] != classes[2][scored])
    most = np.stack([(classes == c).sum(axis=0) for c in range(3)]).argmax(axis=0)
    right = np.where((classes == labels).any(axis=0), labels, most)
    oracle = compute_miou(confusion_per_image(right, labels, num_classes=3, ignore_classes=(0,)), (0,))
    assert result.diversity.oracle_miou == pytest.approx(oracle)
    rest = [predictions[int(key)] for key in result.members[1:]]
    without = select_ensemble(rest, labels, k=2, exactly=True).miou_in_sample
    assert result.contributions[0].value == pytest.approx(result.miou_in_sample - without)


def test_the_oracle_does_not_depend_on_the_order_of_members() -> None:
    """Pixels at which no member is right count the same whoever is named first."""
    pool = Pool([str(i) for i in range(6)], *make_candidates(0, signal=20), (0,))
    found = {measure_diversity(pool, order).oracle_miou for order in permutations((0, 2, 5))}
    assert len(found) == 1


def test_void_may_be_named_among_the_ignored_classes() -> None:
    """255 is never scored, whether it is said or not."""
    predictions, labels = make_candidates(12, signal=60)
    labels[:, :2] = 255
    assert select_ensemble(predictions, labels, ignore_classes=(0, 255)) == select_ensemble(predictions, labels)


@pytest.mark.parametrize("k", [1, 3])
def test_limits_hold_for_the_best_single_too(k: int) -> None:
    """What costs more alone than all may cost together is neither a member nor what the gain is over."""
    predictions, labels = make_candidates(13, signal=60)
    truth = np.stack([labels == c for c in range(3)], axis=1)
    keys, best = [f"k{i}" for i in range(6)], (truth * 200).astype(np.uint8)
    costs = dict.fromkeys(keys, 1.0) | {"large": 9.0}
    limited = SelectionRules("greedy", (Limit(4, costs),))
    report = evaluate(Pool([*keys, "large"], [*predictions, best], labels, (0,)), k=k, rules=limited)
    alone = evaluate(Pool(keys, predictions, labels, (0,)), k=k, rules=SelectionRules("greedy"))
    assert (report.members, report.miou, report.gain) == (alone.members, alone.miou, alone.gain)
    assert (report.best_single, report.steps[0]) == (alone.best_single, alone.steps[0])


def test_the_bootstrap_draws_whole_groups() -> None:
    """Of thirty images in three groups only three matrices are left to draw from."""
    predictions, labels = make_candidates(11, signal=60)
    groups = np.repeat(np.arange(3), 10)
    alone, grouped = select_ensemble(predictions, labels), select_ensemble(predictions, labels, groups=groups)
    assert len(alone.confusions) == 30
    assert len(grouped.confusions) == 3
    assert select_ensemble(predictions, labels, groups=[f"scene {group}" for group in groups]) == grouped


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"k": 0}, "k is 0"),
        ({"k": 9, "exactly": True}, "only 6 distinct"),
        ({"keys": ["a"]}, "1 keys for 6"),
        ({"groups": np.zeros(NUM_IMAGES, np.int64)}, "at least 2"),
        ({"groups": ["scene 1", "scene 2"]}, r"groups are \(2,\), expected one of each image: \(30,\)"),
        ({"search": "beem"}, "Did you mean 'beam'"),
        ({"mean": "geometrical"}, "Did you mean 'geometric'"),
        ({"ignore_classes": (0, 3)}, r"ignore_classes holds \[3\], but predictions have 3 classes"),
        ({"ignore_classes": (-1,)}, r"ignore_classes holds \[-1\]"),
        ({"ignore_classes": (0, 1, 2)}, "No pixel is scored"),
    ],
)
def test_impossible_requests_are_refused(options: dict, message: str) -> None:
    """Each with what was found."""
    with pytest.raises(EnsembleError, match=message):
        select_ensemble(*make_candidates(7, signal=40), **options)


def test_floats_are_stored_as_the_trainer_stores_them() -> None:
    """Probabilities as floats give what their uint8 form gives."""
    predictions, labels = make_candidates(9, signal=40)
    assert select_ensemble([p.astype(np.float32) / 255 for p in predictions], labels) == select_ensemble(predictions, labels)


def test_what_is_no_npy_file_is_named(tmp_path: Path) -> None:
    """An archive of arrays, a cut file and a missing one."""
    predictions, labels = make_candidates(8, signal=40)
    np.savez(tmp_path / "several.npz", predictions[0])
    np.save(tmp_path / "cut.npy", predictions[0])
    os.truncate(tmp_path / "cut.npy", 2000)
    for name in ("several.npz", "cut.npy", "missing.npy"):
        with pytest.raises(EnsembleError, match=f"{name}: cannot be read as .npy"):
            select_ensemble([tmp_path / name], labels)


def test_logits_are_refused() -> None:
    """Floats outside 0..1 are no probabilities."""
    predictions, labels = make_candidates(8, signal=40)
    with pytest.raises(EnsembleError, match="softmax"):
        select_ensemble([p.astype(np.float32) for p in predictions], labels)
