"""Values that are cached between commands: what is found again, what is forgotten, what damage costs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from orchestrator.analysis.cache import ValueCache
from orchestrator.analysis.confusions import Matrices
from orchestrator.analysis.results import Result, compare_results, estimate, pool_spread_of


def make_results(folder: Path, reads: list[int], *, num_results: int = 3) -> tuple[ValueCache, list[Result]]:
    """Configurations of two seeds with two folds each, on 20 images a fold. reads: which parts' matrices were read."""
    values = ValueCache(folder, ["s"], place="http://one")

    def make_fold(number: int) -> Matrices:
        def read() -> tuple[np.ndarray, tuple[int, ...]]:
            reads.append(number)
            return np.random.default_rng(number).integers(1, 90, (20, 3, 3)), (0,)

        return Matrices(read, mark=f"mark {number}", cache=values)

    def make_result(number: int) -> Result:
        seeds = tuple(Matrices.join([make_fold(4 * number + 2 * seed + fold) for fold in (0, 1)]) for seed in (0, 1))
        return Result(f"c{number}", seeds, ("fold 1", "fold 2"))

    return values, [make_result(number) for number in range(num_results)]


def compute(folder: Path, reads: list[int], *, num_results: int = 3) -> list[object]:
    """All that a ranking takes of them."""
    values, results = make_results(folder, reads, num_results=num_results)
    spread = pool_spread_of(results, ("fold 1", "fold 2"))
    found = [(estimate(r, spread), compare_results(results[0], r, spread), r.ignore_classes) for r in results]
    values.save()
    return [spread, found]


def test_what_was_computed_is_found_again(tmp_path: Path) -> None:
    """To the last bit, and without reading any matrices."""
    first, reads = compute(tmp_path, []), []
    assert compute(tmp_path, reads) == first
    assert not reads


def test_a_new_result_costs_its_own_matrices_only(tmp_path: Path) -> None:
    """Although the pooled spread, and so every CI, changes with it: the bootstraps are cached too."""
    compute(tmp_path, [])
    reads: list[int] = []
    assert compute(tmp_path, reads, num_results=4) == compute(tmp_path / "anew", [], num_results=4)
    assert sorted(reads) == [12, 13, 14, 15]


def test_what_is_gone_is_forgotten(tmp_path: Path) -> None:
    """The bootstraps of results that are there no longer are removed."""
    compute(tmp_path, [])
    compute(tmp_path, [], num_results=1)
    assert len(list(tmp_path.glob("drawn/*"))) == 2


def test_a_command_that_needs_less_forgets_nothing(tmp_path: Path) -> None:
    """A comparison shares the leaderboard's values, adds its own, and leaves the rest as they are."""
    first = compute(tmp_path, [])
    values, results = make_results(tmp_path, [], num_results=2)
    compare_results(results[1], results[0], None)
    values.save(keep_unused=True)
    reads: list[int] = []
    assert compute(tmp_path, reads) == first
    assert not reads


def test_two_servers_keep_their_own(tmp_path: Path) -> None:
    """A sweep of the same name elsewhere neither takes values from this one nor makes it forget them."""
    compute(tmp_path, [])
    other = ValueCache(tmp_path, ["s"], place="http://two")
    other.recall("ignored", "mark", list)
    other.save()
    reads: list[int] = []
    compute(tmp_path, reads)
    assert not reads


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"version": 0, "figures": {}}'])
def test_a_damaged_file_costs_time_only(tmp_path: Path, content: bytes) -> None:
    """Torn, empty or of another version: computed again."""
    first = compute(tmp_path, [])
    for path in tmp_path.rglob("*.*"):
        path.write_bytes(content)
    assert compute(tmp_path, []) == first
