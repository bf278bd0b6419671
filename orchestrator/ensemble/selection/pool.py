"""A pool of candidates -> the members whose combined probabilities score best."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from orchestrator.ensemble.selection.blocks import Grouped, make_blocks, make_layout
from orchestrator.ensemble.selection.counting import CandidateCounter, Members
from orchestrator.ensemble.selection.kernel import MAX_MEMBERS, UNSCORED
from orchestrator.ensemble.selection.strategies import SEARCHES, SearchName, choose
from orchestrator.errors import EnsembleError
from trainers.config import VOID
from trainers.metrics import mean_iou
from trainers.prediction.means import Mean


@dataclass(frozen=True)
class Limit:
    """An upper limit for a cost of all members together, such as parameters."""

    most: float
    costs: Mapping[str, float]
    """Of each candidate, by key."""


@dataclass(frozen=True)
class SelectionRules:
    """How members are searched for. models: candidate's key -> its model, of which at most one candidate becomes a member."""

    name: SearchName = "auto"
    limits: tuple[Limit, ...] = ()
    models: Mapping[str, str] = field(default_factory=dict)


DEFAULT_RULES = SelectionRules()


@dataclass(frozen=True)
class Selection:
    """Members of a pool, in the order in which they were chosen."""

    members: Members
    """Positions in the pool, each once."""
    weights: tuple[float, ...]
    """Of each member; their sum is 1."""
    repeated: Members
    """The members, each repeated by its weight: what ``Pool.count`` takes."""
    miou: float
    """In sample: on the images that the members were chosen on."""
    trajectory: tuple[float, ...]
    """The same for the first 1, 2, ... members of the greedy search, before any swap."""
    search: SearchName
    """The search that ran; never auto."""
    reason: str = field(compare=False)
    """Why that search."""


class Pool:
    """Candidates scored on the same pixels; ties go to the first. Used by one thread; caches its counts.

    Of candidates with identical predictions only the first is kept. Holds a regrouped copy of the predictions, in a temporary
    file if they are large, unless they are given as ``Grouped``.
    """

    def __init__(
        self,
        keys: Sequence[str],
        predictions: Iterable[NDArray[np.uint8]] | Grouped,
        labels: NDArray[np.integer],
        ignore_classes: tuple[int, ...],
        *,
        mean: Mean = "arithmetic",
    ) -> None:
        """Take predictions (V, C, H, W) uint8 each, or Grouped by these labels, and labels (V, H, W), 255 for void.

        Raises:
            EnsembleError: shapes, keys or labels do not fit each other.
        """
        if not keys:
            raise EnsembleError("There are no candidates: no trial has stored predictions. Run `orchestrate sweep FILE` first.")
        if len(set(keys)) < len(keys):
            raise EnsembleError(f"{len(keys)} keys, but only {len(set(keys))} distinct ones: expected one per candidate.")
        self.ignore_classes = tuple(ignore_classes)
        self.mean = mean
        grouped = predictions if isinstance(predictions, Grouped) else _group(keys, predictions, labels, self.ignore_classes)
        self.layout = grouped.layout
        self.num_images, self.num_classes = grouped.layout.num_images, grouped.layout.num_classes
        self.labels = mark_unscored(labels, self.ignore_classes)
        counter = CandidateCounter(grouped.layout, grouped.blocks, mean)
        counts = counter.count_additions(())
        first = _find_first_alike(grouped, counts)
        kept = sorted(set(first))
        self.keys = tuple(keys[i] for i in kept)
        self.positions = {key: kept.index(i) for key, i in zip(keys, first, strict=True)}
        """Key -> position in the pool; that of the first for candidates with identical predictions."""
        self.predictions = Grouped(grouped.layout, [grouped.blocks[i] for i in kept])
        """(V, C, P) each, 0 where nothing is scored."""
        self._counter = counter.narrow(kept)
        self.singles = self._counter.split_by_image(counts[kept])
        """(M, V, C, C): each candidate's own confusion matrices."""

    def rank_singles(self, images: NDArray[np.int64], limits: Sequence[Limit] = ()) -> list[float]:
        """MIoU of each candidate alone on these images; -inf for those that exceed the limits alone."""
        return [float(score) for score in _Scores(self, images, SelectionRules(limits=tuple(limits)))(())]

    def count(self, members: Iterable[int], images: NDArray[np.int64]) -> NDArray[np.int64]:
        """Confusion matrices (n, C, C) of the members' mean on these images; repeated members weigh more."""
        *others, last = members
        counts = self._counter.count(tuple(others), np.array([last]))
        confusions: NDArray[np.int64] = self._counter.split_by_image(counts)[0, images].astype(np.int64)
        return confusions

    def select(
        self, images: NDArray[np.int64], *, k: int, exactly: bool = False, rules: SelectionRules = DEFAULT_RULES
    ) -> Selection:
        """Choose up to ``k`` distinct members on these images; with ``exactly``, ``k`` even if fewer score better.

        Raises:
            EnsembleError: no candidate is within the limits, or with ``exactly`` too few are.
        """
        num_models = len({rules.models.get(key, key) for key in self.keys})
        if exactly and k > num_models:
            found = f"only {len(self.keys)} distinct candidates, of {num_models} models, one member each"
            raise EnsembleError(f"exactly {k} members asked for, but there are {found}.")
        num_bytes = int(np.prod(self.layout.shape))
        name, reason = choose(rules.name, num_candidates=len(self.keys), k=k, num_bytes=num_bytes)
        outcome = SEARCHES[name](_Scores(self, images, rules), k, exactly=exactly)
        repeats = Counter(outcome.members)
        if exactly and len(repeats) < k:
            raise EnsembleError(f"exactly {k} members asked for, but only {len(repeats)} fit the limits together. Raise them.")
        weights = tuple(number / len(outcome.members) for number in repeats.values())
        return Selection(tuple(repeats), weights, outcome.members, outcome.score, outcome.trajectory, name, reason)


class _Scores:
    """Scores on some images, as a search needs them: -inf for candidates beyond the limits or of a member's model."""

    def __init__(self, pool: Pool, images: NDArray[np.int64], rules: SelectionRules) -> None:
        limits = rules.limits
        self.num_candidates = len(pool.keys)
        self._pool, self._images = pool, images
        self._models = np.unique([rules.models.get(key, key) for key in pool.keys], return_inverse=True)[1]
        self._most = np.array([limit.most for limit in limits])
        self._costs = np.array([[limit.costs[key] for limit in limits] for key in pool.keys]).reshape(len(pool.keys), -1)

    def __call__(self, members: Members, start: int = 0) -> NDArray[np.float64]:
        chosen = sorted(set(members))
        costs = self._costs[start:] + self._costs[chosen].sum(axis=0)
        is_member = np.isin(np.arange(start, self.num_candidates), chosen)
        is_free = ~np.isin(self._models[start:], self._models[chosen])
        is_within = is_member | (is_free & (costs <= self._most).all(axis=1))
        if not is_within.any() or len(np.unique(self._models[chosen])) < len(chosen):
            return np.full(len(costs), -np.inf)
        counter = self._pool._counter
        scores = mean_iou(counter.add_up(counter.count_additions(members, start), self._images), self._pool.ignore_classes)
        scored = np.where(np.isfinite(scores), scores, -1.0)  # NaN: nothing is scored on these images
        return np.where(is_within, scored, -np.inf)


def mark_unscored(labels: NDArray[np.integer], ignore_classes: tuple[int, ...]) -> NDArray[np.uint8]:
    """Labels (V, P), UNSCORED where nothing is scored, of labels (V, H, W)."""
    return np.where(np.isin(labels, ignore_classes), UNSCORED, labels).astype(np.uint8).reshape(len(labels), -1)


def _group(
    keys: Sequence[str], predictions: Iterable[NDArray[np.uint8]], labels: NDArray[np.integer], ignore_classes: tuple[int, ...]
) -> Grouped:
    arrays = iter(predictions)
    first = next(arrays)
    _check_array(keys[0], first, first.shape)
    _check_labels(labels, first.shape, ignore_classes)
    layout = make_layout(mark_unscored(labels, ignore_classes), first.shape[1])

    def checked() -> Iterator[NDArray[np.uint8]]:
        for key, array in zip(keys, chain([first], arrays), strict=True):
            _check_array(key, array, first.shape)
            yield array

    return Grouped(layout, make_blocks(layout, checked(), num_candidates=len(keys)))


def _find_first_alike(grouped: Grouped, counts: NDArray[np.uint16]) -> list[int]:
    """For each candidate, the first with identical predictions, mostly itself. Only candidates of equal counts are compared."""
    first: list[int] = []
    by_counts: dict[bytes, list[int]] = {}
    for i, own in enumerate(counts):
        alike = by_counts.setdefault(own.tobytes(), [])
        found = next((j for j in alike if np.array_equal(grouped.blocks[i], grouped.blocks[j])), i)
        if found == i:
            alike.append(i)
        first.append(found)
    return first


def _check_array(key: str, array: NDArray[np.uint8], shape: tuple[int, ...]) -> None:
    if array.ndim != 4 or array.dtype != np.uint8 or array.shape != shape:
        raise EnsembleError(
            f"{key}: predictions are {array.dtype} {array.shape}; the first has {shape}. "
            "Expected uint8 (images, classes, height, width), alike for all candidates."
        )


def _check_labels(labels: NDArray[np.integer], shape: tuple[int, ...], ignore_classes: tuple[int, ...]) -> None:
    if shape[1] > VOID:
        raise EnsembleError(f"predictions have {shape[1]} classes, expected at most {VOID}: and {VOID} for void.")
    if labels.shape != (shape[0], *shape[2:]) or not np.issubdtype(labels.dtype, np.integer):
        raise EnsembleError(f"labels are {labels.dtype} {labels.shape}, expected whole numbers {(shape[0], *shape[2:])}.")
    unknown = sorted({int(label) for label in np.unique(labels)} - {*range(shape[1]), VOID})
    if unknown:
        raise EnsembleError(
            f"labels hold {unknown}, but predictions have {shape[1]} classes. Expected 0..{shape[1] - 1} or {VOID}."
        )
    if strange := sorted(set(ignore_classes) - {*range(shape[1])}):
        raise EnsembleError(f"ignore_classes holds {strange}, but predictions have {shape[1]} classes: 0..{shape[1] - 1}.")
    if np.isin(labels, (*ignore_classes, VOID)).all():
        raise EnsembleError(f"No pixel is scored: every label is void ({VOID}) or of an ignored class {list(ignore_classes)}.")


def check_size(k: int) -> None:
    """Check the number of members.

    Raises:
        EnsembleError: it is below 1, or more than an exact sum can hold.
    """
    if not 1 <= k <= MAX_MEMBERS:
        raise EnsembleError(f"k is {k}, expected 1..{MAX_MEMBERS}.")
