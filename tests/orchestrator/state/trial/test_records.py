"""The trial folder: what identifies a trial, and that no kill leaves an unreadable file."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.errors import TrialError
from orchestrator.state.trial.folder import TrialFile, TrialFolder
from orchestrator.state.trial.records import Attempt, Event, TrialResult, TrialSpec, TrialState, make_key
from trainers.config import DataConfig, Fold, TrainConfig
from trainers.config.loss import FocalLoss


def key_of(
    *,
    seed: int | None = 0,
    fold: Fold | None = None,
    data: DataConfig | None = None,
    removed: tuple[int, ...] = (),
    **train: object,
) -> str:
    """The key of a training on the source with fingerprint 'f'."""
    config = TrainConfig.model_validate(train)
    return make_key(config, data or DataConfig(), seed=seed, fold=fold, source_fingerprint="f", code={}, removed=removed)


def test_an_explicit_default_changes_no_key() -> None:
    """A trial is what it trains, not how the sweep file is written."""
    assert key_of() == key_of(epochs=30, loss={"name": "focal"}) == key_of(loss=FocalLoss(name="focal", gamma=2.0))


@pytest.mark.parametrize(
    "other",
    [
        {"seed": 1},
        {"fold": Fold(index=0, count=5)},
        {"data": DataConfig(ignore_classes=(0,))},
        {"data": DataConfig(limit=10)},
        {"epochs": 31},
        {"loss": {"name": "dice"}},
        {"arch_options": {"decoder_channels": [8]}},
    ],
)
def test_every_change_of_the_training_changes_the_key(other: dict[str, object]) -> None:
    """Seed, fold, data and every field of the configuration count."""
    assert key_of(**other) != key_of()  # type: ignore[arg-type]  # one dict for arguments of several types


def test_the_location_of_the_data_changes_no_key() -> None:
    """Path and class names do not count; the fingerprint stands for the content."""
    assert key_of(data=DataConfig(source="/elsewhere/set.npz", class_names=("a", "b"))) == key_of()


def test_the_removed_images_count_and_not_how_they_were_named() -> None:
    """Auto, a file and a list that remove the same images are one trial; removing none equals no cleaning."""
    removed = {"data": DataConfig(clean=(3, 5)), "removed": (3, 5)}
    assert key_of(**removed) == key_of(data=DataConfig(clean="auto"), removed=(3, 5))  # type: ignore[arg-type]
    assert key_of(**removed) == key_of(data=DataConfig(clean="/here/check.json"), removed=(3, 5))  # type: ignore[arg-type]
    assert key_of(**removed) != key_of(data=DataConfig(clean=(3,)), removed=(3,))  # type: ignore[arg-type]
    assert key_of(data=DataConfig(clean="auto")) == key_of()


def test_a_folder_belongs_to_one_trial(tmp_path: Path, make_spec: Callable[..., TrialSpec]) -> None:
    """Creating it again changes nothing; creating another trial in it is refused."""
    folder, spec = TrialFolder(tmp_path / "ordner mit ümlaut"), make_spec()
    folder.create(spec)
    folder.create(spec)
    assert folder.spec() == spec
    with pytest.raises(TrialError, match=f"holds trial {spec.key}"):
        folder.create(make_spec(seed=1))


def test_a_result_survives_the_round_trip(tmp_path: Path) -> None:
    """None before the end, the same afterwards, None again when it is discarded."""
    folder = TrialFolder(tmp_path)
    assert folder.result() is None
    result = TrialResult(key="k", state=TrialState.FAILED, attempt=2, started_s=1.5, ended_s=2.5, reason="жук: no")
    folder.write_result(result)
    assert folder.result() == result
    folder.discard_result()
    assert folder.result() is None


@pytest.mark.parametrize("text", ["{", '{"schema_version": 2}', '{"schema_version": 1, "surprise": 1}'])
def test_a_damaged_file_is_named(tmp_path: Path, text: str) -> None:
    """Half a file, another version, an unknown field: the message names the file."""
    (tmp_path / "trial.json").write_text(text)
    with pytest.raises(TrialError, match=rf"trial\.json: cannot be read .*(?s:.)*Move {tmp_path} away"):
        TrialFolder(tmp_path).spec()


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    """For a folder without a trial, too."""
    with pytest.raises(TrialError, match=r"attempt\.json: not found"):
        TrialFolder(tmp_path).attempt()


def epoch_event(epoch: int) -> Event:
    """As a worker writes it after an epoch."""
    return Event(kind="epoch", time_s=float(epoch), attempt=1, epoch=epoch, metrics={"val/miou": epoch / 10})


def test_events_are_read_from_an_offset(tmp_path: Path) -> None:
    """A reader that keeps its offset sees each event once."""
    folder = TrialFolder(tmp_path)
    assert folder.events() == ([], 0)
    folder.append(epoch_event(1))
    first, offset = folder.events()
    folder.append(epoch_event(2))
    second, _ = folder.events(offset)
    assert (first, second) == ([epoch_event(1)], [epoch_event(2)])


@pytest.mark.parametrize("cut", [1, 5, 30])
def test_a_torn_line_loses_only_itself(tmp_path: Path, cut: int) -> None:
    """A kill in the middle of a line hides neither earlier nor later lines."""
    folder, progress = TrialFolder(tmp_path), tmp_path / "progress.jsonl"
    for epoch in (1, 2):
        folder.append(epoch_event(epoch))
    progress.write_bytes(progress.read_bytes()[:-cut])
    seen, offset = folder.events()
    folder.append(epoch_event(3))
    assert [event.epoch for event in seen] == [1]
    assert [event.epoch for event in folder.events(offset)[0]][-1] == 3
    assert folder.events()[0][0].epoch == 1


def test_an_attempt_of_a_version_with_16_bits_is_read(tmp_path: Path) -> None:
    """Its `keep_u16` is ignored, so that the attempt counts."""
    folder, attempt = TrialFolder(tmp_path), Attempt(number=3, data_folder="/data", keep_flips="both")
    document = json.loads(attempt.model_dump_json()) | {"keep_u16": True}
    (tmp_path / "attempt.json").write_text(json.dumps(document))
    assert (folder.attempt(), folder.last_attempt()) == (attempt, 3)


def test_the_log_tail_is_the_end_whatever_the_bytes(tmp_path: Path) -> None:
    """The last lines, also of a log that is long or not UTF-8; empty if there is none."""
    folder = TrialFolder(tmp_path)
    assert folder.log_tail() == ""
    (folder.path / TrialFile.LOG).write_bytes(b"x" * 100_000 + b"\nb\xff\nc\n")
    assert folder.log_tail(2) == "b\N{REPLACEMENT CHARACTER}\nc"
