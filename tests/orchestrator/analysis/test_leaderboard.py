"""Ranking: CIs, ties, seeds, what cannot be compared and what failed."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
from rich.console import Console

from orchestrator.analysis.confusions import Matrices
from orchestrator.analysis.leaderboard import Leaderboard, rank_trials
from orchestrator.analysis.trials import Trial
from tests.orchestrator.documented import documented_fields, fields_of


def make_trial(key: str, accuracy: float, *, fingerprint: str = "fp", configuration: str | None = None) -> Trial:
    """A finished trial of two classes, about ``accuracy`` of the pixels right on each of 30 images."""
    random = np.random.default_rng(0)
    rows = [[accuracy if t == p else 1 - accuracy for p in range(2)] for t in range(2)]
    confusions = np.stack([[random.multinomial(200, row) for row in rows] for _ in range(30)])
    return Trial(
        key=key, name=f"trial {key}", configuration=configuration or key, state="COMPLETE", run_id=f"run-{key}", attempts=1,
        config={"seed": 0}, metrics={"val/miou": accuracy, "val/iou/void": float("nan")}, scored_fingerprint=fingerprint,
        matrices=Matrices.of(confusions),
    )  # fmt: skip


def show(board: Leaderboard) -> str:
    """What a person sees."""
    console = Console(width=160)
    with console.capture() as captured:
        console.print(board.render())
    return captured.get()


def test_better_trials_come_first_with_cis() -> None:
    """Ranks from 1, each mIoU inside its CI."""
    board = rank_trials([make_trial("a", 0.6), make_trial("b", 0.9), make_trial("c", 0.7)])
    assert [(row.ranked.rank, row.trial.key) for row in board.trials] == [(1, "b"), (2, "c"), (3, "a")]
    assert all(row.ranked.ci95[0] < row.trial.miou < row.ranked.ci95[1] for row in board.trials)


def test_a_tie_is_what_does_not_differ_significantly_from_the_best() -> None:
    """An equal is tied with the best, a clearly worse one is not."""
    board = rank_trials([make_trial("a", 0.9), make_trial("b", 0.9), make_trial("c", 0.6)])
    assert [(row.trial.key, row.ranked.is_tied) for row in board.trials] == [("a", True), ("b", True), ("c", False)]
    assert "tied with the best" in show(board)


def test_seeds_of_a_configuration_share_their_mean() -> None:
    """Each trial shows the mean over the trials of its configuration."""
    board = rank_trials([make_trial("a", 0.6, configuration="x"), make_trial("b", 0.9, configuration="x")])
    first, second = board.trials
    assert first.configuration_miou == second.configuration_miou == (first.trial.miou + second.trial.miou) / 2
    assert first.configuration_trials == 2


def test_trials_scored_on_other_images_are_ranked_separately() -> None:
    """Each block has its own ranks, and the reader is warned."""
    board = rank_trials([make_trial("a", 0.6), make_trial("b", 0.7), make_trial("c", 0.9, fingerprint="other")])
    assert [(row.ranked.rank, row.trial.key) for row in board.trials] == [(1, "b"), (2, "a"), (1, "c")]
    assert "cannot be compared" in show(board)


def test_failed_trials_are_listed_with_their_reason() -> None:
    """Not ranked, not lost."""
    failed = replace(make_trial("a", 0.6), state="FAILED", reason="CUDA out of memory", matrices=None)
    board = rank_trials([failed, make_trial("b", 0.7)])
    assert [row.trial.key for row in board.trials] == ["b"]
    assert "CUDA out of memory" in show(board)


def test_json_is_strict_and_complete() -> None:
    """The documented fields, in order of rank, without NaN."""
    failed = replace(make_trial("z", 0.6), state="FAILED", reason="no", matrices=None)
    seeds = [make_trial("a", 0.6), replace(make_trial("b", 0.5, configuration="a"), config={"seed": 1})]
    document = json.loads(json.dumps(rank_trials([*seeds, failed]).to_json(), allow_nan=False))
    assert [row["rank"] for row in document] == [1, 2, None]
    assert fields_of(document) == documented_fields("leaderboard")
    assert document[2]["reason"] == "no"


def test_top_keeps_the_first() -> None:
    """Two of three rows are printed, and the number of the others."""
    board = rank_trials([make_trial("a", 0.6), make_trial("b", 0.9), make_trial("c", 0.7)])
    assert [row.trial.key for row in board.top(2).trials] == ["b", "c"]
    assert "1 more trials" in show(board.top(2))
    assert "more" not in show(board.top(3))


def test_of_many_without_a_rank_the_first_are_drawn() -> None:
    """Thousands that were pruned do not bury the table; JSON has all."""
    failed = replace(make_trial("a", 0.6), state="PRUNED", reason="early", matrices=None)
    board = rank_trials([make_trial("b", 0.7), *(replace(failed, key=str(n)) for n in range(103))])
    assert show(board).count("PRUNED") == 100
    assert "and 3 more" in show(board)
    assert len(board.to_json()) == 104


def test_an_empty_board_says_what_to_do() -> None:
    """No table, a hint."""
    assert "orchestrate sweep" in show(rank_trials([]))


def test_brackets_are_shown_as_they_are() -> None:
    """Names and reasons are no markup, be they like [red] or like a stray [/closing] tag."""
    failed = replace(make_trial("a", 0.6), name="x [red]", state="FAILED", reason="bad [/tag] in [0, 1]", matrices=None)
    shown = show(rank_trials([failed, replace(make_trial("b", 0.7), name="lr [/low]")]))
    assert all(text in shown for text in ("x [red]", "bad [/tag] in [0, 1]", "lr [/low]"))


def test_configurations_of_several_seeds_are_ranked_by_their_means() -> None:
    """Over images and seeds; a lucky seed of the worse configuration leads the trials, not the configurations."""
    trials = [("a", 0.80, "x"), ("b", 0.82, "x"), ("c", 0.84, "y"), ("d", 0.60, "y")]
    trials = [replace(make_trial(key, accuracy, configuration=c), seed=i) for i, (key, accuracy, c) in enumerate(trials)]
    board = rank_trials(trials)
    assert board.trials[0].trial.key == "c"
    first, second = board.configurations
    assert (first.result.keys, first.rank, second.is_tied) == (("a", "b"), 1, True)
    assert first.ci95[0] < first.result.miou < first.ci95[1]
    assert board.to_json()[0]["configuration_result"]["rank"] == 2
    assert "Configurations" in show(board)
    assert "images and seeds" in show(board)


def test_folds_are_ranked_on_all_their_images() -> None:
    """One table of configurations, not one of each fold."""
    trials = [
        replace(make_trial(f"{c}{i}", accuracy, configuration=c, fingerprint=f"fold {i}"), seed=0, fold=(i, 2))
        for c, accuracy in (("x", 0.6), ("y", 0.9))
        for i in range(2)
    ]
    board = rank_trials(trials)
    assert [row.result.keys for row in board.configurations] == [("y0", "y1"), ("x0", "x1")]
    assert not board.configurations[1].is_tied
    shown = show(board)
    assert "2 folds" in shown
    assert "Result on" not in shown
