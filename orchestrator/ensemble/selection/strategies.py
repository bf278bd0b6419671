"""Searches for members: each only asks for the score of some members with each candidate added."""

import math
from collections.abc import Callable
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
"""Of a weighted search: weights are multiples of at least 1/25. Caruana et al. use 20 to 100 models."""

_AFFORDABLE = 10**10
"""Bytes of predictions that ``auto`` reads to try every set: about a second on two cores."""
_OVERHEAD = 3 * 10**6
"""Bytes that could be read in the time that one call for scores takes at least."""


class Scores(Protocol):
    """Scores members with each candidate added: higher is better, -inf where it may not be added."""

    num_candidates: int

    def __call__(self, members: Members, start: int = 0) -> NDArray[np.float64]:
        """Score of the members with each candidate from number ``start`` on: (M - start,)."""


ScoredMembers = tuple[Members, float]
"""Members and their score."""


@dataclass(frozen=True)
class SearchOutcome:
    """Members in the order in which they were chosen, repeated by weight, and their score."""

    members: Members
    score: float
    trajectory: tuple[float, ...]
    """The score after each addition of the greedy or weighted search."""


def choose(name: SearchName, *, num_candidates: int, k: int, num_bytes: int) -> tuple[SearchName, str]:
    """The search to run and why; it differs from ``name`` only for ``auto``. num_bytes: of one candidate."""
    if name != "auto":
        return name, "asked for"
    num_sets = sum(math.comb(num_candidates, size) for size in range(1, k + 1))
    sets = f"sets of up to {k} of {num_candidates} candidates"
    num_questions = sum(math.comb(num_candidates - 1, size - 1) for size in range(1, k + 1))
    if num_sets * num_bytes + num_questions * _OVERHEAD <= _AFFORDABLE:
        return "exhaustive", f"auto: all {num_sets} {sets} can be tried"
    return "swap", f"auto: {num_sets:.2g} {sets} are too many to try all"


def search_greedily(scores: Scores, k: int, *, exactly: bool) -> SearchOutcome:
    """Add the best candidate until there are k; then take the best prefix, or all k.

    Source: Caruana et al. 2004, Ensemble Selection from Libraries of Models, without replacement.
    """
    path = _walk(scores, k, list)
    num_members = len(path) if exactly else 1 + int(np.argmax([score for _, score in path]))
    members, score = path[num_members - 1]
    return SearchOutcome(members, score, tuple(score for _, score in path))


def search_weights(scores: Scores, k: int, *, exactly: bool) -> SearchOutcome:
    """As greedy, but a member may be added again, which raises its weight; up to k distinct members.

    Source: Caruana et al. 2004, with replacement.
    """

    def bar(members: Members) -> list[int]:
        return [] if len(set(members)) < k else np.setdiff1d(np.arange(scores.num_candidates), members).tolist()

    path = _walk(scores, NUM_ADDITIONS, bar)
    allowed = [(m, s) for m, s in path if len(set(m)) == k] if exactly else path
    if not allowed:
        return search_greedily(scores, k, exactly=True)  # it never added a k-th member
    members, score = max(allowed, key=lambda step: step[1])  # the shortest of equals
    return SearchOutcome(members, score, tuple(score for _, score in path))


def search_by_swaps(scores: Scores, k: int, *, exactly: bool) -> SearchOutcome:
    """Greedily; then replace one member at a time by the best outsider, while that helps."""
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
    return SearchOutcome(members, score, found.trajectory)


def search_beam(scores: Scores, k: int, *, exactly: bool) -> SearchOutcome:
    """Extend the BEAM_WIDTH best sets of each size, and always those of the greedy search, so that it is never worse."""
    greedy = _walk(scores, k, list)
    beam: list[ScoredMembers] = [((), -np.inf)]
    found: list[ScoredMembers] = []
    for size in range(k):
        known = {tuple(sorted(step[0])): step for step in greedy[size : size + 1]}
        for members, _ in beam:
            values = scores(members).copy()
            values[list(members)] = -np.inf
            for candidate in np.argsort(-values, kind="stable")[:BEAM_WIDTH].tolist():
                if values[candidate] > -np.inf:
                    known.setdefault(tuple(sorted((*members, candidate))), ((*members, candidate), float(values[candidate])))
        if not known:
            break
        ranked = sorted(known.values(), key=lambda step: (-step[1], sorted(step[0])))
        found.append(ranked[0])
        beam = ranked[:BEAM_WIDTH] + [step for step in greedy[size : size + 1] if step not in ranked[:BEAM_WIDTH]]
    members, score = max(found[-1:] if exactly else found, key=lambda step: step[1])
    return SearchOutcome(members, score, tuple(score for _, score in greedy))


def search_exhaustively(scores: Scores, k: int, *, exactly: bool) -> SearchOutcome:
    """Try every set of up to k, or of k; of equals take the smallest, then the first."""
    greedy = _walk(scores, k, list)
    best: ScoredMembers = ((), -np.inf)
    for size in range(k if exactly else 1, k + 1):
        for first in combinations(range(scores.num_candidates - 1), size - 1):
            start = first[-1] + 1 if first else 0
            values = scores(first, start)
            last = int(np.argmax(values))
            if values[last] > best[1]:
                best = (*first, start + last), float(values[last])
    return SearchOutcome(*best, tuple(score for _, score in greedy))


SEARCHES: dict[SearchName, Callable[..., SearchOutcome]] = {
    "greedy": search_greedily,
    "weighted": search_weights,
    "swap": search_by_swaps,
    "beam": search_beam,
    "exhaustive": search_exhaustively,
}


def _walk(scores: Scores, num_additions: int, bar: Callable[[Members], list[int]]) -> list[ScoredMembers]:
    """Members and score after each addition of the best candidate that is not barred; of equals the first."""
    members: Members = ()
    path = []
    for _ in range(num_additions):
        values = scores(members).copy()
        values[bar(members)] = -np.inf
        best = int(np.argmax(values))
        if values[best] == -np.inf:
            break
        members = (*members, best)
        path.append((members, float(values[best])))
    if not path:
        raise EnsembleError("No candidate is within the limits. Raise them.")
    return path
