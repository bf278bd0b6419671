"""Ways to search for members: each asks what adding a candidate to some members would score, and knows nothing of pixels."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import combinations
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from orchestrator.ensemble.selection.counting import Members
from orchestrator.errors import EnsembleError

SearchName = Literal["auto", "greedy", "weighted", "swap", "beam", "exhaustive"]

BEAM_WIDTH = 8
NUM_ADDITIONS = 25
"""Of a weighted search, so that weights are multiples of down to 1/25. Caruana et al. take 20 to 100 models."""

_AFFORDABLE = 10**10
"""Bytes of predictions that ``auto`` reads to try every set: about a second on two cores."""
_OVERHEAD = 3 * 10**6
"""Bytes that could be read while candidates that differ in one member are put to the question, however small they are."""


class Scores(Protocol):
    """What candidates are worth, beside members: higher is better, -inf where they may not be added."""

    num_candidates: int

    def __call__(self, members: Members, start: int = 0) -> NDArray[np.float64]:
        """Score of the members with each candidate from number ``start`` on: (M - start,)."""


Step = tuple[Members, float]
"""Members, and what they score."""


@dataclass(frozen=True)
class Found:
    """Members in the order in which they were chosen, named as often as they count, and what they score."""

    members: Members
    score: float
    trajectory: tuple[float, ...]
    """What greedy, or weighted, scored after each addition."""


def choose(name: SearchName, *, num_candidates: int, k: int, num_bytes: int) -> tuple[SearchName, str]:
    """The search that ``auto`` stands for, and why; of others, themselves. num_bytes: of one candidate."""
    if name != "auto":
        return name, "asked for"
    num_sets = sum(math.comb(num_candidates, size) for size in range(1, k + 1))
    sets = f"sets of up to {k} of {num_candidates} candidates"
    num_questions = sum(math.comb(num_candidates - 1, size - 1) for size in range(1, k + 1))
    if num_sets * num_bytes + num_questions * _OVERHEAD <= _AFFORDABLE:
        return "exhaustive", f"auto: all {num_sets} {sets} can be tried"
    return "swap", f"auto: {num_sets:.2g} {sets} are too many to try all"


def search_greedily(scores: Scores, k: int, *, exactly: bool) -> Found:
    """Add the candidate that helps most, up to k; then the best prefix, or all k.

    Source: Caruana et al. 2004, Ensemble Selection from Libraries of Models, without replacement.
    """
    path = _walk_greedily(scores, k)
    num_members = len(path) if exactly else 1 + int(np.argmax([score for _, score in path]))
    members, score = path[num_members - 1]
    return Found(members, score, tuple(score for _, score in path))


def search_weights(scores: Scores, k: int, *, exactly: bool) -> Found:
    """As greedy, but a member may be added again, so that it weighs more; up to k distinct ones.

    Source: Caruana et al. 2004, with replacement.
    """
    members: Members = ()
    path: list[Step] = []
    for _ in range(NUM_ADDITIONS):
        values = scores(members).copy()
        if len(set(members)) == k:
            values[np.setdiff1d(np.arange(len(values)), members)] = -np.inf
        best = int(np.argmax(values))
        if values[best] == -np.inf:
            break
        members = (*members, best)
        path.append((members, float(values[best])))
    allowed = [(m, s) for m, s in path if len(set(m)) == k] if exactly else path
    trajectory = tuple(score for _, score in path)
    if not allowed:
        return search_greedily(scores, k, exactly=True)  # it never took up a k-th member by itself
    best_members, score = max(allowed, key=lambda step: step[1])  # the first, so the shortest, of equals
    return Found(best_members, score, trajectory)


def search_by_swaps(scores: Scores, k: int, *, exactly: bool) -> Found:
    """Greedily; then replace one member at a time by the outsider that helps most, until none helps."""
    found = search_greedily(scores, k, exactly=exactly)
    members, score = found.members, found.score
    while len(members) > 1:
        best, better = score, members
        for place in range(len(members)):
            rest = members[:place] + members[place + 1 :]
            values = scores(rest).copy()
            values[list(members)] = -np.inf
            outsider = int(np.argmax(values))
            if values[outsider] > best:
                best, better = float(values[outsider]), (*members[:place], outsider, *members[place + 1 :])
        if better == members:
            break
        members, score = better, best
    return Found(members, score, found.trajectory)


def search_beam(scores: Scores, k: int, *, exactly: bool) -> Found:
    """Go on from the BEAM_WIDTH best sets of each size, and always from greedy's own, so that it is never worse than that."""
    greedy = _walk_greedily(scores, k)
    beam: list[Step] = [((), -np.inf)]
    found: list[Step] = []
    for size in range(k):
        known = {tuple(sorted(step[0])): step for step in greedy[size : size + 1]}
        for members, _ in beam:
            for candidate, value in _best_of(scores(members), members):
                known.setdefault(tuple(sorted((*members, candidate))), ((*members, candidate), value))
        if not known:
            break
        ranked = sorted(known.values(), key=lambda step: (-step[1], sorted(step[0])))
        found.append(ranked[0])
        beam = ranked[:BEAM_WIDTH] + [step for step in greedy[size : size + 1] if step not in ranked[:BEAM_WIDTH]]
    members, score = max(found[-1:] if exactly else found, key=lambda step: step[1])
    return Found(members, score, tuple(score for _, score in greedy))


def search_exhaustively(scores: Scores, k: int, *, exactly: bool) -> Found:
    """Try every set of up to k, or of k; among equals the smallest, and then the first."""
    greedy = _walk_greedily(scores, k)
    best: Step = ((), -np.inf)
    for size in range(k if exactly else 1, k + 1):
        for first in combinations(range(scores.num_candidates - 1), size - 1):
            start = first[-1] + 1 if first else 0
            values = scores(first, start)
            last = int(np.argmax(values))
            if values[last] > best[1]:
                best = (*first, start + last), float(values[last])
    return Found(*best, tuple(score for _, score in greedy))


SEARCHES: dict[SearchName, Callable[..., Found]] = {
    "greedy": search_greedily,
    "weighted": search_weights,
    "swap": search_by_swaps,
    "beam": search_beam,
    "exhaustive": search_exhaustively,
}


def _walk_greedily(scores: Scores, k: int) -> list[Step]:
    """Members after each addition and what they score, until there are k or none may be added."""
    members: Members = ()
    path = []
    while len(members) < k:
        best = next(_best_of(scores(members), members, most=1), None)
        if best is None:
            break
        members = (*members, best[0])
        path.append((members, best[1]))
    if not path:
        raise EnsembleError("No candidate is within the limits. Raise them.")
    return path


def _best_of(values: NDArray[np.float64], members: Members, most: int = BEAM_WIDTH) -> Iterator[tuple[int, float]]:
    """The best candidates that are no members yet, the first of equals first."""
    values = values.copy()
    values[list(members)] = -np.inf
    for candidate in np.argsort(-values, kind="stable")[:most]:
        if values[candidate] > -np.inf:
            yield int(candidate), float(values[candidate])
