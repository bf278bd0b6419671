"""The report: one line per configuration, in the order of rows, with ensembles and failures; as text, JSON and a page."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from rich.console import Console

from orchestrator.analysis.confusions import Matrices
from orchestrator.analysis.report.describe import describe_training
from orchestrator.analysis.report.page import SamplePicture, write_page
from orchestrator.analysis.report.table import EnsembleRun, ReportTable, make_table
from orchestrator.analysis.report.terminal import draw_table
from orchestrator.analysis.results import Result, score_trial
from orchestrator.analysis.stats import compute_miou
from orchestrator.analysis.trials import Trial
from trainers.config import TrainConfig

NAMES = ("sand", "rock <big>")


def make_trial(
    key: str, accuracy: float, *, seed: int = 0, row: str | None = None, name: str | None = None,
    configuration: str | None = None, reported: float | None = None, fingerprint: str = "fp", state: str = "COMPLETE",
    reason: str | None = None,
) -> Trial:  # fmt: skip
    """A trial of three classes, the first ignored, about ``accuracy`` of the pixels right on each of 30 images."""
    random = np.random.default_rng(seed)
    shares = [[accuracy if t == p else (1 - accuracy) / 2 for p in range(3)] for t in range(3)]
    matrices = np.stack([[random.multinomial(200 * (t > 0), shares[t]) for t in range(3)] for _ in range(30)])
    is_done = state == "COMPLETE"
    return Trial(
        key=key, name=name or f"trial {key} seed {seed}", configuration=configuration or key, state=state, run_id=f"run-{key}",
        attempts=1, config={"train": TrainConfig().model_dump(mode="json")}, scored_fingerprint=fingerprint, seed=seed, row=row,
        metrics={"val/iou/sand": accuracy, "val/iou/rock _big_": accuracy / 2} if is_done else {}, reported=reported,
        matrices=Matrices.of(matrices, (0,)) if is_done else None, reason=reason,
    )  # fmt: skip


def make_ensemble(row: str, members: Sequence[str], accuracy: float, *, best_member: str, seed: int = 0) -> EnsembleRun:
    """An evaluated ensemble of rows."""
    name = f"{row}: {'+'.join(members)} seed {seed}"
    scored = make_trial(f"ensemble-{row}-{seed}", accuracy, seed=seed, row=row, name=name)
    return EnsembleRun(name, row, tuple(members), best_member, score_trial(scored), scored.metrics)


def show(table: ReportTable, *, width: int = 80) -> str:
    """What a person sees."""
    console = Console(width=width)
    with console.capture() as captured:
        console.print(draw_table(table))
    return captured.get()


def test_seeds_of_a_configuration_are_one_line() -> None:
    """Their mean, their standard deviation, and a CI around the mean."""
    trials = [make_trial("a", 0.6, configuration="x"), make_trial("b", 0.8, seed=1, configuration="x")]
    (line,) = make_table("s", trials, class_names=NAMES).lines
    figures = [compute_miou(trial.matrices.confusions, (0,)) for trial in trials if trial.matrices is not None]
    assert (line.seeds, line.miou, line.spread) == ((0, 1), np.mean(figures), np.std(figures, ddof=1))
    assert line.ci95 is not None
    assert line.ci95[0] < np.mean(figures) < line.ci95[1]
    assert line.class_iou == {"sand": pytest.approx(0.7), "rock <big>": pytest.approx(0.35)}


def test_folds_of_a_seed_are_one_result() -> None:
    """Result on the images of all folds together, so that there is no spread."""
    folds = [
        replace(make_trial(key, accuracy, configuration="x", name=f"t fold {i + 1}/2", fingerprint=f"f{i}"), fold=(i, 2))
        for i, (key, accuracy) in enumerate((("a", 0.6), ("b", 0.8)))
    ]
    (line,) = make_table("s", folds, class_names=NAMES).lines
    joined = np.concatenate([trial.matrices.confusions for trial in folds if trial.matrices is not None])
    assert (line.name, line.miou, line.spread, line.rank) == ("t", compute_miou(joined, (0,)), None, 1)


def test_a_seed_that_lacks_a_fold_is_left_out_and_named() -> None:
    """As on the leaderboard: the line is that of the whole seed alone, and without any there is none."""
    trials = [
        replace(make_trial(f"{seed}{i}", 0.7, seed=seed, configuration="x", fingerprint=f"f{i}"), fold=(i, 2))
        for seed, i in ((0, 0), (0, 1), (1, 0))
    ]
    (line,) = make_table("s", trials, class_names=NAMES).lines
    assert (line.seeds, line.rank, [name for name, _ in line.failures]) == ((0,), 1, [trials[2].name])
    (line,) = make_table("s", trials[2:], class_names=NAMES).lines
    assert (line.miou, line.rank, len(line.failures)) == (None, None, 1)
    assert "lacks a fold" in show(make_table("s", trials, class_names=NAMES))


def test_an_ensemble_of_folds_is_compared_with_its_best_member_on_all_folds() -> None:
    """The gain is over the row's folds together, and the line can be compared with those of rows."""
    rows = {"1": ("x", 0.6), "2": ("y", 0.8)}
    folds = [
        replace(make_trial(f"{c}{i}", accuracy, seed=0, configuration=c, row=row, fingerprint=f"f{i}"), fold=(i, 2))
        for row, (c, accuracy) in rows.items()
        for i in range(2)
    ]
    both = make_ensemble("3", ["1", "2"], 0.9, best_member="y-0")
    assert both.result is not None
    matrices = Matrices.of(np.concatenate([both.result.confusions[0]] * 2), (0,))
    both = replace(both, result=Result(both.name, (matrices,), ("f0", "f1"), seeds=(0,)))
    lines = {line.row: line for line in make_table("s", folds, [both], class_names=NAMES).lines}
    assert lines["3"].is_comparable
    gain = lines["3"].gain
    assert gain is not None
    assert lines["3"].miou is not None
    assert lines["2"].miou is not None
    assert gain.value == pytest.approx(lines["3"].miou - lines["2"].miou)


def test_without_rows_the_best_comes_first() -> None:
    """As on the leaderboard, with ties."""
    table = make_table("s", [make_trial("a", 0.5), make_trial("b", 0.9), make_trial("c", 0.9)], class_names=NAMES)
    assert [(line.name, line.rank, line.is_tied) for line in table.lines] == [
        ("trial b", 1, True), ("trial c", 2, True), ("trial a", 3, False),
    ]  # fmt: skip


def test_rows_stand_in_the_order_of_their_ids() -> None:
    """Numbers as numbers; ensembles between them, with the gain over their best member."""
    trials = [
        make_trial("a", 0.7, row="10", name="10: ten"),
        make_trial("b", 0.6, row="2", name="2: two", reported=0.5),
        make_trial("c", 0.6, row="2b", name="row 2b"),
    ]
    table = make_table("s", trials, [make_ensemble("5", ["2", "10"], 0.8, best_member="a")], class_names=NAMES)
    assert [line.row for line in table.lines] == ["2", "2b", "5", "10"]
    ensemble = table.lines[2]
    assert ensemble.is_ensemble
    assert (ensemble.rank, ensemble.best_member) == (None, "ten")
    assert ensemble.gain is not None
    assert 0 < ensemble.gain.low < ensemble.gain.value < ensemble.gain.high
    shown = show(table)
    assert re.search(r"2\s+2=?\s+two\s+\.\d{3}\s+\.\d{3} to \.\d{3}\s+\.500", shown)
    assert re.search(r"5\s+2\+10, ensemble", shown)
    assert "gain +" in shown


def test_seeds_of_an_ensemble_are_one_line() -> None:
    """Its gain is the mean over seeds, each over that seed's best member."""
    trials = [make_trial("a", 0.7, row="1", configuration="x"), make_trial("b", 0.6, seed=1, row="1", configuration="x")]
    ensembles = [make_ensemble("2", ["1"], 0.8, best_member=key, seed=seed) for seed, key in enumerate(("a", "b"))]
    line = make_table("s", trials, ensembles, class_names=NAMES).lines[1]
    expected = np.mean([run.result.miou - trial.miou for run, trial in zip(ensembles, trials, strict=True) if run.result])
    assert (line.seeds, line.gain.value if line.gain else None) == ((0, 1), pytest.approx(expected))


def test_trials_of_earlier_forms_of_a_table_are_left_out() -> None:
    """A trial without a row, where others have one, is counted and not shown."""
    table = make_table("s", [make_trial("a", 0.7, row="1"), make_trial("old", 0.9)], class_names=NAMES)
    assert [line.row for line in table.lines] == ["1"]
    assert "Left out: 1 trials of earlier versions" in show(table)


def test_what_was_scored_on_other_images_is_marked() -> None:
    """It has no rank, and the reader is warned."""
    trials = [make_trial("a", 0.6), make_trial("b", 0.7), make_trial("c", 0.9, fingerprint="other")]
    table = make_table("s", trials, class_names=NAMES)
    assert [(line.name, line.rank, line.is_comparable) for line in table.lines] == [
        ("trial c", None, False), ("trial b", 1, True), ("trial a", 2, True),
    ]  # fmt: skip
    assert "cannot be compared" in show(table)


def test_failed_trials_are_lines_with_their_reason() -> None:
    """A sweep that failed in part is a report in full."""
    failed = make_trial("a", 0, row="1", state="FAILED", reason="RuntimeError: [broken] <on> purpose")
    table = make_table("s", [failed, make_trial("b", 0.7, row="2")], class_names=NAMES)
    assert (table.lines[0].row, table.lines[0].miou) == ("1", None)
    assert "[broken] <on> purpose" in show(table)
    assert "[broken] &lt;on&gt; purpose" in write_page(table, None)
    assert table.to_json()["lines"][0]["failures"] == [{"name": failed.name, "reason": failed.reason}]


def test_a_sweep_of_failures_and_an_empty_one_are_reports() -> None:
    """Nothing to rank is no error."""
    for trials in ([make_trial("a", 0, state="FAILED", reason="no")], []):
        table = make_table("s", trials, class_names=())
        assert write_page(table, None).startswith("<!DOCTYPE html>")
        json.dumps(table.to_json(), allow_nan=False)
        assert show(table)


def test_json_is_strict_and_complete() -> None:
    """Documented fields, without NaN, also where a class was never scored."""
    table = make_table("s", [make_trial("a", 0.6, row="1", reported=0.5)], class_names=(*NAMES, "never"))
    document = json.loads(json.dumps(table.to_json(), allow_nan=False))
    (line,) = document["lines"]
    assert (document["sweep"], line["row"], line["reported"], line["kind"]) == ("s", "1", 0.5, "trial")
    assert set(line["class_iou"]) == set(NAMES)
    assert (line["architecture"], line["encoder"]) == ("Unet", "mobilenet_v2")


class Outline(HTMLParser):
    """Tags with their attributes, and whether all that was opened was closed in order."""

    VOID = ("meta", "img")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_is_self_contained() -> None:
    """Complete HTML without scripts, links or addresses; images are embedded."""
    trials = [make_trial("a", 0.7, row="1", reported=0.5), make_trial("b", 0.6, row="2")]
    table = make_table("<s>", trials, [make_ensemble("3", ["1", "2"], 0.8, best_member="a")], class_names=NAMES)
    page = write_page(table, SamplePicture(b"\x89PNG", (("sand", "#00ff00"), ("rock <big>", "#0000ff"))))
    outline = Outline(page)
    assert outline.open == []
    assert not {"script", "link", "iframe", "object"} & {tag for tag, _ in outline.tags}
    assert "http" not in page
    assert "url(" not in page
    sources = [attributes.get("src") for tag, attributes in outline.tags if tag == "img"]
    assert sources == ["data:image/png;base64,iVBORw=="]
    assert "<s>" not in page.replace("&lt;s&gt;", "")
    assert sum(tag == "circle" for tag, _ in outline.tags) == len(table.lines)
    assert sum(attributes.get("class") == "reported" for tag, attributes in outline.tags if tag == "path") == 1


@pytest.mark.parametrize(
    ("train", "columns"),
    [
        ({"loss": {"name": "focal", "gamma": 2, "ignore_classes": []}}, ("Unet", "", "focal(2), every class, adamw 0.002")),
        (
            {"arch": "my.nets:Tiny", "augmentation": "mixed", "input_size": [32, 64]},
            ("Tiny", "mixed + at 32x64", "focal(2), adamw 0.002"),
        ),
        (
            {"sampling": {"repeat": [{"classes": [4]}, {"classes": "all", "factor": 3}]}, "ema": {}, "test_time_flips": "both"},
            ("Unet", "class 4 x2 + all x3", "focal(2), adamw 0.002, ema 0.999, test-time flips both"),
        ),
        (
            {"loss": {"name": "sum", "terms": [{"loss": {"name": "dice"}, "weight": 0.5}, {"loss": {"name": "boundary"}}]}},
            ("Unet", "", "0.5 dice + boundary, adamw 0.002"),
        ),
    ],
)  # fmt: skip
def test_a_training_is_described_in_a_few_words(train: dict[str, object], columns: tuple[str, str, str]) -> None:
    """What differs from the defaults, in the words of the sweep file."""
    what = describe_training(TrainConfig.model_validate(train))
    assert (what.arch, what.augmentation, what.training) == columns
