"""The losses by name, each with its own options, and sums of them."""

from typing import Annotated, Any, Literal, Self, get_args

from pydantic import BeforeValidator, Discriminator, Field, Tag, model_validator

from trainers.config.base import Config, check_known, is_import_path


class LossConfig(Config):
    """Fields that every loss has."""

    ignore_classes: tuple[int, ...] | None = None
    """Overrides ``data.ignore_classes`` for the loss alone; [] trains on every class."""


class FocalLoss(LossConfig):
    """Focal loss. Source: Lin et al. 2017, Focal Loss for Dense Object Detection, eq. 4."""

    name: Literal["focal"]
    gamma: float = Field(default=2.0, ge=0)


class CrossEntropyLoss(LossConfig):
    """Cross entropy with equal weights."""

    name: Literal["cross_entropy"]
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)


class WeightedCrossEntropyLoss(LossConfig):
    """Cross entropy weighted by the inverse pixel frequency of the classes in the training images."""

    name: Literal["weighted_cross_entropy"]


class DiceLoss(LossConfig):
    """1 - soft Dice, averaged over the classes trained on. Source: Milletari et al. 2016, V-Net."""

    name: Literal["dice"]


class JaccardLoss(LossConfig):
    """1 - soft intersection over union, averaged over the classes trained on."""

    name: Literal["jaccard"]


class TverskyLoss(LossConfig):
    """1 - soft Tversky index. Source: Salehi et al. 2017, Tversky Loss Function, eq. 2."""

    name: Literal["tversky"]
    alpha: float = Field(default=0.3, ge=0)
    """Weight of false positives."""
    beta: float = Field(default=0.7, ge=0)
    """Weight of false negatives; alpha = beta = 0.5 is dice."""

    @model_validator(mode="after")
    def _weighs_something(self) -> Self:
        if self.alpha + self.beta == 0:
            raise ValueError("has alpha 0 and beta 0, so that no error counts. Allowed: at least one above 0")
        return self


class LovaszLoss(LossConfig):
    """Convex extension of the Jaccard index. Source: Berman et al. 2018, The Lovasz-Softmax Loss."""

    name: Literal["lovasz"]


class BoundaryLoss(LossConfig):
    """Probability times signed distance to the true boundary. Source: Kervadec et al. 2019, Boundary Loss, eq. 5.

    Its authors add it to a region loss; row 21 of the report uses it alone.
    """

    name: Literal["boundary"]


class CustomLoss(LossConfig):
    """A custom loss: ``package.module:callable``, called with ``options`` to build it."""

    name: str
    options: dict[str, Any] = {}


def _check_loss_name(value: Any) -> Any:
    """Reject a missing or unknown name and list the known ones, before the union chooses by it."""
    if isinstance(value, dict):
        name = value.get("name")
        if not isinstance(name, str):
            raise ValueError(f"a loss needs a 'name'. Known: {', '.join(LOSSES)}, or package.module:attribute")
        if not is_import_path(name):
            check_known(name, LOSSES, "loss")
    elif not isinstance(value, LossConfig):
        raise ValueError(f"{value!r} is not a loss; write it as {{name: focal, gamma: 2}}. Known: {', '.join(LOSSES)}")
    return value


def _check_term_name(value: Any) -> Any:
    if isinstance(value, dict) and value.get("name") == "sum":
        raise ValueError("'sum' is not allowed inside a sum. Add its terms to the outer sum")
    return _check_loss_name(value)


def _loss_tag(value: Any) -> str:
    name: str = value["name"] if isinstance(value, dict) else value.name
    return "custom" if is_import_path(name) else name


SingleLoss = (
    Annotated[FocalLoss, Tag("focal")]
    | Annotated[CrossEntropyLoss, Tag("cross_entropy")]
    | Annotated[WeightedCrossEntropyLoss, Tag("weighted_cross_entropy")]
    | Annotated[DiceLoss, Tag("dice")]
    | Annotated[JaccardLoss, Tag("jaccard")]
    | Annotated[TverskyLoss, Tag("tversky")]
    | Annotated[LovaszLoss, Tag("lovasz")]
    | Annotated[BoundaryLoss, Tag("boundary")]
    | Annotated[CustomLoss, Tag("custom")]
)

LOSSES = (*(tag.tag for _, tag in map(get_args, get_args(SingleLoss)) if tag.tag != "custom"), "sum")
"""Names of all losses."""


class LossTerm(Config):
    """One loss of a sum."""

    weight: float = Field(default=1.0, gt=0)
    loss: Annotated[SingleLoss, Discriminator(_loss_tag), BeforeValidator(_check_term_name)]


class SumLoss(LossConfig):
    """Weighted sum of losses; ``ignore_classes`` applies to the terms that set none."""

    name: Literal["sum"]
    terms: tuple[LossTerm, ...] = Field(min_length=2)


Loss = Annotated[
    SingleLoss | Annotated[SumLoss, Tag("sum")],
    Discriminator(_loss_tag),
    BeforeValidator(_check_loss_name),
]
