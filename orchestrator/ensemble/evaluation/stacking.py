"""Learned combinations of candidates: convex weights, and a linear model of all probabilities at a pixel.

Both are learned from a sample of pixels in which each class has a share by the square root of its frequency. This balances mIoU,
which weights all classes equally, against predicting rare classes too often.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import log_softmax

from orchestrator.ensemble.evaluation.crossfit import Fit, Images
from orchestrator.ensemble.selection.pool import Pool
from trainers.metrics import confusion_per_image

MAX_CANDIDATES = 12
"""The best single candidates on the images that are learned from."""
NUM_PIXELS = 40_000
"""At most so many pixels are learned from."""

_SHRINKAGE = 1e-3  # of the linear model towards the plain mean: 12 x 5 x 5 weights would overfit
_SHARPNESS = 10.0  # of the plain mean as a softmax's argument
_ROUNDS = 200

CombinationWeights = NDArray[np.float32]
"""(M, C, C): weight of each candidate's probability of a class (last index) in the score of a class."""

Learn = Callable[[NDArray[np.float32], NDArray[np.int64]], CombinationWeights]
"""Probabilities (n, M, C) and true classes (n,) of some pixels -> weights for other pixels."""


def fit_stack(pool: Pool, learn: Learn) -> Fit:
    """Learn to combine the best candidates on some images; deterministic."""

    def fit(images: Images, part: Images) -> NDArray[np.int64]:
        scores = np.array(pool.rank_singles(images))
        candidates = np.argsort(-scores, kind="stable")[:MAX_CANDIDATES].tolist()
        return _count(pool, candidates, learn(*draw_sample(pool, candidates, images)), part)

    return fit


def draw_sample(pool: Pool, candidates: list[int], images: Images) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Draw scored pixels of these images, with each class in proportion to the square root of its share; deterministic.

    Returns: probabilities (n, M, C) in [0, 1] and true classes (n,).
    """
    labels = pool.labels[images]
    counts = np.bincount(labels.ravel(), minlength=256)[: pool.num_classes]
    shares = np.sqrt(counts) / max(np.sqrt(counts).sum(), 1)
    wanted = np.minimum(counts, np.ceil(shares * NUM_PIXELS).astype(np.int64))
    random = np.random.default_rng(0)
    drawn = [random.choice(np.flatnonzero(labels == c), number, replace=False) for c, number in enumerate(wanted) if number]
    places = np.sort(np.concatenate(drawn)) if drawn else np.empty(0, np.int64)
    rows, columns = np.divmod(places, labels.shape[1])
    probabilities = np.empty((len(places), len(candidates), pool.num_classes), np.float32)
    for i, candidate in enumerate(candidates):
        probabilities[:, i] = pool.predictions[candidate][images[rows], :, columns]
    return probabilities / np.float32(255), labels[rows, columns].astype(np.int64)


def learn_weights(probabilities: NDArray[np.float32], true: NDArray[np.int64]) -> CombinationWeights:
    """Non-negative weights with sum 1 that maximize the likelihood of the true classes.

    Source: Dempster, Laird & Rubin 1977, Maximum Likelihood from Incomplete Data via the EM Algorithm, section 4.3 (mixtures).
    """
    num_candidates, num_classes = probabilities.shape[1:]
    likelihoods = np.maximum(probabilities[np.arange(len(true)), :, true], 0.5 / 255).astype(np.float64)
    weights = np.full(num_candidates, 1 / num_candidates)
    for _ in range(_ROUNDS):
        shares = likelihoods * weights
        weights = (shares / shares.sum(axis=1, keepdims=True)).mean(axis=0) if len(true) else weights
    return (weights[:, None, None] * np.eye(num_classes)).astype(np.float32)


def learn_linear(probabilities: NDArray[np.float32], true: NDArray[np.int64]) -> CombinationWeights:
    """Multinomial logistic regression on all probabilities at a pixel (a 1x1 convolution), regularized towards the plain mean.

    It needs no bias, as a candidate's probabilities have sum 1.
    Source: Wolpert 1992, Stacked Generalization; Ting & Witten 1999, Issues in Stacked Generalization (probabilities as inputs).
    """
    num_pixels, num_candidates, num_classes = probabilities.shape
    inputs = probabilities.reshape(num_pixels, num_candidates * num_classes)
    start = np.tile(np.eye(num_classes) * _SHARPNESS / num_candidates, (num_candidates, 1))
    hot = np.eye(num_classes, dtype=np.float32)[true]

    def loss(flat: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        away = flat.reshape(start.shape) - start
        scores = log_softmax(inputs @ flat.reshape(start.shape).astype(np.float32), axis=1)
        gradient = inputs.T @ (np.exp(scores) - hot) / max(num_pixels, 1) + 2 * _SHRINKAGE * away
        value = -float(scores[np.arange(num_pixels), true].mean()) if num_pixels else 0.0
        return value + _SHRINKAGE * float((away**2).sum()), gradient.astype(np.float64).ravel()

    found = minimize(loss, start.ravel(), jac=True, method="L-BFGS-B", options={"maxiter": _ROUNDS})
    learned: CombinationWeights = found.x.reshape(num_candidates, num_classes, num_classes).transpose(0, 2, 1).astype(np.float32)
    return learned


STACKS: dict[str, Learn] = {"learned weights": learn_weights, "linear at each pixel": learn_linear}


def _count(pool: Pool, candidates: list[int], matrices: CombinationWeights, images: Images) -> NDArray[np.int64]:
    """Confusion matrices (n, C, C) of the combination, one image at a time."""
    predictions = [pool.predictions[candidate] for candidate in candidates]
    combining = np.hstack(list(matrices))
    predicted = np.empty((len(images), 1, pool.labels.shape[1]), np.uint8)
    for row, image in enumerate(images):
        probabilities = np.concatenate([array[image] for array in predictions]).astype(np.float32)
        predicted[row, 0] = (combining @ probabilities).argmax(axis=0)
    labels = pool.labels[images][:, None]
    return confusion_per_image(predicted, labels, num_classes=pool.num_classes, ignore_classes=())
