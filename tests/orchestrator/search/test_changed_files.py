from __future__ import annotations

from pathlib import Path

from orchestrator.search import read_known
from tests.orchestrator.search.conftest import FACTS, LR, build, read, run


def test_a_changed_space_starts_a_study_with_the_results_that_still_fit(tmp_path: Path, storage: Path | str) -> None:
    """Results of the earlier space are copied if they are points of the new one, and count towards the budget."""
    before = read(tmp_path, "search: {method: random, space: {epochs: [1, 2, 3, 4]}}\nbudget: {trials: 4}\n")
    run(build(before, storage), lambda c: c.train.epochs / 10)
    after = read(tmp_path, "search: {method: random, space: {epochs: [3, 4, 5]}}\nbudget: {trials: 3}\n")
    build(after, storage)

    assert sorted((c.train.epochs, value) for c, value in read_known(after, FACTS, storage)) == [(3, 0.3), (4, 0.4)]


def test_a_changed_base_starts_afresh(tmp_path: Path, journal: Path) -> None:
    """Values of another training do not count."""
    space = "search: {method: random, space: {epochs: [1, 2]}}\nbudget: {trials: 50}\n"
    run(build(read(tmp_path, space), journal), lambda _: 0.5)
    after = read(tmp_path, space + "base: {batch_size: 2}\n")
    build(after, journal)
    assert read_known(after, FACTS, journal) == ()


def test_other_seeds_start_afresh(tmp_path: Path, journal: Path) -> None:
    """A mean over other seeds is another value."""
    space = "search: {method: random, space: {epochs: [1, 2]}}\nbudget: {trials: 50}\n"
    run(build(read(tmp_path, space), journal), lambda _: 0.5)
    after = read(tmp_path, space + "seeds: [0, 1]\n")
    build(after, journal)
    assert read_known(after, FACTS, journal) == ()


def test_reading_changes_nothing(tmp_path: Path, journal: Path) -> None:
    """A plan reads a study and creates none."""
    assert read_known(read(tmp_path, LR.format(method="tpe", trials=4)), FACTS, journal) == ()
    assert not journal.exists()
