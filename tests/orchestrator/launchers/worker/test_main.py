"""The worker: one attempt at a trial folder, in this process; what it writes, and how it ends."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from orchestrator.launchers.worker.contract import ExitCode, Slot
from orchestrator.launchers.worker.main import work
from orchestrator.state.trial.endings import fail
from orchestrator.state.trial.failures import FailureKind
from orchestrator.state.trial.folder import TrialFile, TrialFolder, is_worked_on
from orchestrator.state.trial.outputs import read_predictions
from orchestrator.state.trial.records import TrialState
from trainers.metrics import mean_iou
from trainers.pictures import draw_samples, encode_png, make_palette, pick_evenly

SLOT = Slot("cpu-0", "", 1)


def never() -> bool:
    """No stop request."""
    return False


@pytest.fixture(scope="module")
def trained(make_trial: Callable[..., TrialFolder], tmp_path_factory: pytest.TempPathFactory) -> TrialFolder:
    """A finished trial of two epochs."""
    trial = make_trial(tmp_path_factory.mktemp("worker") / "trial", epochs=2)
    assert work(trial.path, SLOT, never) is ExitCode.COMPLETE
    return trial


def test_the_result_says_what_was_reached(trained: TrialFolder) -> None:
    """Metrics of the best epoch, times, versions, and no reason."""
    result = trained.result()
    assert result is not None
    assert (result.state, result.epochs_run, result.attempt, result.reason) == (TrialState.COMPLETE, 2, 1, None)
    assert 0 <= result.metrics["val/miou"] <= 1
    assert result.started_s < result.ended_s
    assert result.scored_fingerprint
    assert "version/torch" in result.facts
    assert result.facts["num_threads"] == 1
    assert result.facts["epoch_s"] > result.facts["val_s"] > 0


def test_progress_records_the_whole_attempt(trained: TrialFolder) -> None:
    """First the machine's facts, then each epoch with its metrics, at the end the state."""
    events, _ = trained.events()
    assert [event.kind for event in events] == ["attempt_started", "epoch", "epoch", "attempt_ended"]
    assert events[0].facts["slot"] == "cpu-0"
    assert [event.epoch for event in events] == [None, 1, 2, None]
    assert "train/loss" in events[1].metrics
    assert events[-1].state is TrialState.COMPLETE
    assert [event.time_s for event in events] == sorted(event.time_s for event in events)


def test_confusions_give_the_logged_score(trained: TrialFolder) -> None:
    """The stored matrices, summed over images, give val/miou."""
    result = trained.result()
    assert result is not None
    with np.load(trained.path / TrialFile.CONFUSIONS, allow_pickle=False) as stored:
        confusions, ignored = stored["confusions"], tuple(stored["ignore_classes"])
    assert confusions.dtype == np.int32
    assert ignored == (0,)
    assert float(mean_iou(confusions.sum(axis=0), ignored)) == result.metrics["val/miou"]


def test_predictions_can_be_read_back(trained: TrialFolder, tmp_path: Path) -> None:
    """As many images as confusion matrices, as many classes, uint8."""
    with np.load(trained.path / TrialFile.CONFUSIONS, allow_pickle=False) as stored:
        num_images, num_classes = stored["confusions"].shape[:2]
    predictions = read_predictions(trained.path, tmp_path)
    assert (predictions.shape, predictions.dtype) == ((num_images, num_classes, 32, 64), np.uint8)


def test_samples_show_some_images(trained: TrialFolder) -> None:
    """A picture of three columns that a browser can show."""
    picture = cv2.imread(str(trained.path / TrialFile.SAMPLES))
    assert picture is not None
    assert picture.shape[1] > 3 * 64


def test_a_finished_trial_is_not_trained_again(trained: TrialFolder) -> None:
    """A second attempt reports how it ended and writes nothing."""
    before = {path.name: path.stat().st_mtime_ns for path in trained.path.iterdir()}
    assert work(trained.path, SLOT, never) is ExitCode.COMPLETE
    assert {path.name: path.stat().st_mtime_ns for path in trained.path.iterdir()} == before


def test_a_resumed_trial_ends_as_if_it_had_not_been_interrupted(
    trained: TrialFolder, make_trial: Callable[..., TrialFolder], tmp_path: Path
) -> None:
    """Stopped after an epoch and resumed, it has the same metrics, confusions and weights, bit for bit."""
    trial = make_trial(tmp_path / "trial", epochs=2)
    asked: list[int] = []

    def after_first_epoch() -> bool:
        asked.append(1)
        return len(asked) == 2

    assert work(trial.path, SLOT, after_first_epoch) is ExitCode.STOPPED
    assert trial.events()[0][-1].state is TrialState.WAITING
    assert work(trial.path, SLOT, never) is ExitCode.COMPLETE
    one, other = trained.result(), trial.result()
    assert one is not None
    assert other is not None
    scores = [{name: value for name, value in result.metrics.items() if name.startswith("val/")} for result in (one, other)]
    assert scores[0] == scores[1]
    with np.load(trained.path / TrialFile.CONFUSIONS) as expected, np.load(trial.path / TrialFile.CONFUSIONS) as found:
        np.testing.assert_array_equal(expected["confusions"], found["confusions"])
    from safetensors.numpy import load_file

    expected_weights, found_weights = (load_file(folder.path / "best.safetensors") for folder in (trained, trial))
    assert expected_weights.keys() == found_weights.keys()
    for name, weights in expected_weights.items():
        np.testing.assert_array_equal(weights, found_weights[name])


def test_a_stop_request_before_the_first_epoch(make_trial: Callable[..., TrialFolder], tmp_path: Path) -> None:
    """Nothing is trained, and the trial can be resumed."""
    trial = make_trial(tmp_path / "trial")
    assert work(trial.path, SLOT, lambda: True) is ExitCode.STOPPED
    assert [event.kind for event in trial.events()[0]] == ["attempt_started", "attempt_ended"]
    assert not is_worked_on(trial)


@pytest.mark.parametrize(
    ("fields", "kind", "reason"),
    [
        ({"arch_options": {"decoder_merge_policy": "none"}}, FailureKind.BAD_CONFIGURATION, "ConfigError: "),
        ({"loss": {"name": "no_such_package:Loss"}}, FailureKind.BAD_CONFIGURATION, "ConfigError: "),
        (
            {"optimizer": {"name": "adam", "lr": 1e30}, "schedule": {"name": "constant"}, "epochs": 3},
            FailureKind.DIVERGED,
            "DivergedError: ",
        ),
    ],
)
def test_an_error_becomes_the_result(
    make_trial: Callable[..., TrialFolder], tmp_path: Path, fields: dict[str, object], kind: FailureKind, reason: str
) -> None:
    """One line says why; the end of the log has the traceback."""
    trial = make_trial(tmp_path / "trial", **fields)
    assert work(trial.path, SLOT, never) is ExitCode.FAILED
    result = trial.result()
    assert result is not None
    assert result.reason is not None
    assert result.reason.startswith(reason)
    assert result.log_tail is not None
    assert reason.rstrip(": ") in result.log_tail
    last = trial.events()[0][-1]
    assert (last.kind, last.state, last.reason) == ("attempt_ended", TrialState.FAILED, result.reason)
    assert last.failure is result.failure is kind


def test_a_missing_data_set_is_a_failure(make_trial: Callable[..., TrialFolder], tmp_path: Path) -> None:
    """The attempt's data folder may have been deleted meanwhile."""
    trial = make_trial(tmp_path / "trial")
    attempt = json.loads((trial.path / "attempt.json").read_text())
    (trial.path / "attempt.json").write_text(json.dumps(attempt | {"data_folder": str(tmp_path / "gone")}))
    assert work(trial.path, SLOT, never) is ExitCode.FAILED
    result = trial.result()
    assert result is not None
    assert result.reason is not None
    assert "gone" in result.reason


def test_a_failure_recorded_by_the_dispatcher_counts_the_epochs(make_trial: Callable[..., TrialFolder], tmp_path: Path) -> None:
    """If the worker was killed, the dispatcher writes the result from what the worker had written."""
    trial = make_trial(tmp_path / "trial", epochs=2)
    asked: list[int] = []
    work(trial.path, SLOT, lambda: bool(asked.append(1)) or len(asked) == 2)
    result = fail(trial, 1, failure=FailureKind.SIGNAL, reason="killed by signal 9 (SIGKILL)")
    assert result == trial.result()
    assert (result.state, result.epochs_run, result.failure) == (TrialState.FAILED, 1, FailureKind.SIGNAL)
    assert result.started_s == trial.events()[0][0].time_s


def test_the_grid_shows_image_truth_and_prediction() -> None:
    """Gray becomes RGB, void is black, small images are enlarged; a PNG file holds it unchanged."""
    images = np.full((2, 32, 64, 1), 100, np.uint8)
    truths, predictions = np.full((2, 32, 64), 255, np.uint8), np.ones((2, 32, 64), np.uint8)
    picture = draw_samples(images, truths, predictions, num_classes=5)
    middle = picture[picture.shape[0] // 4]
    assert (picture.shape[2], picture.dtype) == (3, np.uint8)
    third = picture.shape[1] // 3
    assert middle[third // 2].tolist() == [100] * 3
    assert middle[third + third // 2].tolist() == [0] * 3
    assert middle[2 * third + third // 2].tolist() == make_palette(5)[1].tolist()
    read = cv2.imdecode(np.frombuffer(encode_png(picture), np.uint8), cv2.IMREAD_COLOR)
    np.testing.assert_array_equal(read[..., ::-1], picture)


def test_samples_are_spread_evenly() -> None:
    """From the first to the last, each once."""
    assert pick_evenly(100, 3).tolist() == [0, 49, 99]
    assert pick_evenly(2, 6).tolist() == [0, 1]
