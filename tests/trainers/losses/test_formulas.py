from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import segmentation_models_pytorch as smp
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from trainers.config import VOID
from trainers.config.loss import LovaszLoss
from trainers.losses import build_loss
from trainers.losses.pixelwise import inverse_frequency

Build = Callable[..., nn.Module]
MakeBatch = Callable[..., tuple[Tensor, Tensor]]

TRAINED = [1, 2, 3, 4]
pytestmark = pytest.mark.usefixtures("one_thread")


def void_background(target: Tensor) -> Tensor:
    """The target as a library sees it: class 0 is to be ignored."""
    return target.masked_fill(target == 0, VOID)


def keep_valid(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """The valid pixels as one long image, for losses that ignore nothing themselves."""
    valid = void_background(target) != VOID
    return logits.permute(0, 2, 3, 1)[valid].T[None, :, None], target[valid][None, None]


def test_focal_without_gamma_is_cross_entropy(build: Build, make_batch: MakeBatch) -> None:
    """Lin et al.: gamma 0 gives the cross entropy."""
    logits, target = make_batch()
    found = build({"name": "focal", "gamma": 0})(logits, target)
    torch.testing.assert_close(found, build({"name": "cross_entropy"})(logits, target))


def test_focal_equals_smp(build: Build, make_batch: MakeBatch) -> None:
    """The softmax focal loss of smp, averaged over the valid pixels, is the same."""
    from segmentation_models_pytorch.losses._functional import softmax_focal_loss_with_logits

    logits, target = make_batch()
    valid = (target != 0) & (target != VOID)
    each = softmax_focal_loss_with_logits(logits, torch.where(valid, target, 0), gamma=2.0, reduction="none")
    torch.testing.assert_close(build({"name": "focal", "gamma": 2})(logits, target), each[valid].mean())


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_cross_entropy_equals_torch(smoothing: float, build: Build, make_batch: MakeBatch) -> None:
    """The cross entropy of torch at the valid pixels is the same."""
    logits, target = make_batch()
    expected = nn.CrossEntropyLoss(ignore_index=VOID, label_smoothing=smoothing)(logits, void_background(target))
    found = build({"name": "cross_entropy", "label_smoothing": smoothing})(logits, target)
    torch.testing.assert_close(found, expected)


def test_weighted_cross_entropy_equals_torch(build: Build, make_batch: MakeBatch) -> None:
    """The weighted mean of torch, with the inverse shares as weights, is the same."""
    logits, target = make_batch()
    weight = torch.tensor([0, 500 / 300, 500 / 150, 500 / 40, 500 / 10])
    expected = nn.CrossEntropyLoss(weight=weight, ignore_index=VOID)(logits, void_background(target))
    torch.testing.assert_close(build({"name": "weighted_cross_entropy"})(logits, target), expected)


def test_weights_are_inverse_shares_with_mean_one() -> None:
    """Of the classes that are trained on and occur; the others weigh nothing."""
    weights = inverse_frequency(np.array([999, 30, 10, 0]), [1, 2, 3])
    torch.testing.assert_close(weights, torch.tensor([0, 0.5, 1.5, 0]))


@pytest.mark.parametrize(
    ("config", "library"),
    [
        ({"name": "dice"}, smp.losses.DiceLoss("multiclass", classes=TRAINED)),
        ({"name": "jaccard"}, smp.losses.JaccardLoss("multiclass", classes=TRAINED)),
        ({"name": "tversky"}, smp.losses.TverskyLoss("multiclass", classes=TRAINED, alpha=0.3, beta=0.7)),
        (
            {"name": "tversky", "alpha": 2, "beta": 0},
            smp.losses.TverskyLoss("multiclass", classes=TRAINED, alpha=2.0, beta=0.0),
        ),
        ({"name": "lovasz"}, smp.losses.LovaszLoss("multiclass")),
    ],
    ids=["dice", "jaccard", "tversky", "tversky-one_sided", "lovasz"],
)
def test_loss_over_regions_equals_smp(config: dict[str, Any], library: nn.Module, build: Build, make_batch: MakeBatch) -> None:
    """The loss of smp over the valid pixels, among which every class trained on is present, is the same."""
    logits, target = make_batch()
    torch.testing.assert_close(build(config)(logits, target), library(*keep_valid(logits, target)))


def test_tversky_by_hand(build: Build) -> None:
    """Two pixels, two classes: 1 - (0.8 / (0.8 + 0.3 * 0.4 + 0.7 * 0.2) + 0.6 / (0.6 + 0.3 * 0.2 + 0.7 * 0.4)) / 2."""
    logits = torch.tensor([[0.8, 0.4], [0.2, 0.6]]).log().reshape(1, 2, 1, 2)
    loss = build({"name": "tversky", "alpha": 0.3, "beta": 0.7}, ignore_classes=(), num_classes=2, counts=(1, 1))
    expected = torch.tensor(1 - (0.8 / 1.06 + 0.6 / 0.94) / 2)
    torch.testing.assert_close(loss(logits, torch.tensor([[[0, 1]]])), expected)


@pytest.mark.parametrize(("name", "weight"), [("dice", 0.5), ("jaccard", 1.0)])
def test_tversky_holds_dice_and_jaccard(name: str, weight: float, build: Build, make_batch: MakeBatch) -> None:
    """Salehi et al.: alpha = beta = 0.5 is Dice, 1 is Jaccard."""
    logits, target = make_batch()
    found = build({"name": "tversky", "alpha": weight, "beta": weight})(logits, target)
    assert found == build({"name": name})(logits, target)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("dice", lambda p: 1 - 2 * p.sum() / (p.sum() + p.numel())),
        ("tversky", lambda p: 1 - p.sum() / (p.sum() + 0.7 * (1 - p).sum())),
        ("lovasz", lambda p: (1 - p).mean()),
    ],
)
def test_classes_that_the_batch_lacks_are_left_out(
    name: str, expected: Callable[[Tensor], Tensor], build: Build, make_batch: MakeBatch
) -> None:
    """With class 1 alone in the batch, the loss is that of class 1."""
    logits, _ = make_batch()
    found = build({"name": name})(logits, torch.ones(3, 6, 6, dtype=torch.int64))
    torch.testing.assert_close(found, expected(logits.softmax(dim=1)[:, 1]))


labels = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=20)


@settings(max_examples=50, deadline=None)
@given(labels)
def test_lovasz_of_sure_predictions_is_one_minus_mean_iou(pairs: list[tuple[int, int]]) -> None:
    """Berman et al.: the extension takes the values of the set function at its corners. Pairs are (true, predicted)."""
    true, predicted = np.array(pairs).T
    logits = 200.0 * nn.functional.one_hot(torch.tensor(predicted), 4).T.reshape(1, 4, 1, -1)
    loss = build_loss(LovaszLoss(name="lovasz"), num_classes=4, ignore_classes=(), class_counts=np.ones(4, np.int64))
    ious = [((true == c) & (predicted == c)).sum() / ((true == c) | (predicted == c)).sum() for c in np.unique(true)]
    assert loss(logits, torch.tensor(true).reshape(1, 1, -1)).item() == pytest.approx(1 - np.mean(ious), abs=1e-6)


def test_sum_adds_its_terms_by_weight(build: Build, make_batch: MakeBatch) -> None:
    """0.5 focal + 2 lovasz, value and gradient."""
    logits, target = make_batch(torch.float64)
    terms = [{"weight": 0.5, "loss": {"name": "focal"}}, {"weight": 2, "loss": {"name": "lovasz"}}]
    found = build({"name": "sum", "terms": terms})(logits, target)
    expected = 0.5 * build({"name": "focal"})(logits, target) + 2 * build({"name": "lovasz"})(logits, target)
    torch.testing.assert_close(found, expected)
    (gradient,) = torch.autograd.grad(found, logits)
    torch.testing.assert_close(gradient, torch.autograd.grad(expected, logits)[0])


@pytest.mark.parametrize(
    ("of_sum", "of_term", "expected"),
    [(None, None, {0}), ([1], None, {1}), ([1], [2], {2}), (None, [], set()), ([], None, set())],
)
def test_term_s_ignored_classes(
    of_sum: list[int] | None, of_term: list[int] | None, expected: set[int], build: Build, make_batch: MakeBatch
) -> None:
    """The term's own, or else the sum's, or else the data's, which are {0}."""
    logits, target = make_batch()
    term = {"name": "weighted_cross_entropy", "ignore_classes": of_term}
    whole = {"loss": {"name": "focal", "ignore_classes": [0, 1, 2, 3]}}
    terms = build({"name": "sum", "terms": [{"loss": term}, whole], "ignore_classes": of_sum}).terms
    terms[0](logits, target).backward()
    moved = logits.grad.abs().sum(dim=1) > 0
    assert {c for c in range(5) if not moved[target == c].any()} == expected


def test_weighted_term_counts_its_own_classes(build: Build, make_batch: MakeBatch) -> None:
    """In a sum too, the weights are those of the classes that the term trains on."""
    logits, target = make_batch()
    term = {"name": "weighted_cross_entropy", "ignore_classes": [1]}
    found = build({"name": "sum", "terms": [{"loss": term}, {"loss": {"name": "focal"}}]})(logits, target)
    expected = build({"name": "weighted_cross_entropy"}, ignore_classes=(1,))(logits, target)
    torch.testing.assert_close(found, expected + build({"name": "focal"})(logits, target))


@pytest.mark.parametrize("name", ["some", "all"])
def test_lovasz_without_boolean_indexing_is_smps(name: str) -> None:
    """Value and gradient, also where classes are absent."""
    import segmentation_models_pytorch as smp

    from trainers.config import VOID
    from trainers.losses.region import lovasz_softmax

    random = torch.Generator().manual_seed(0)
    target = torch.randint(0, 3 if name == "some" else 5, (2, 8, 8), generator=random)
    target[:, :2] = VOID
    gradients = []
    for loss in (lovasz_softmax, smp.losses.LovaszLoss("multiclass", ignore_index=VOID)):
        logits = torch.randn(2, 5, 8, 8, generator=random.manual_seed(1)).requires_grad_()
        value = loss(logits, target)
        value.backward()
        gradients.append((value.detach(), logits.grad))
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-5, atol=1e-6)
