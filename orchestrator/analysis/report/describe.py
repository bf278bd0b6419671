"""A training's configuration -> a few words per column: architecture, encoder, augmentation, training."""

from dataclasses import dataclass

from trainers.config import SamplingConfig, TrainConfig, TransformConfig, is_import_path
from trainers.config.loss import LossConfig, SumLoss


@dataclass(frozen=True)
class Description:
    """The columns of a report that say what was trained."""

    arch: str = ""
    encoder: str = ""
    augmentation: str = ""
    training: str = ""

    def __str__(self) -> str:
        return " ".join(part for part in (self.arch, self.encoder, self.augmentation, self.training) if part)


def describe_training(train: TrainConfig) -> Description:
    """What distinguishes this training from others; defaults are left out."""
    prepared = [_name_augmentation(train.augmentation), *_describe_sampling(train.sampling)]
    if train.input_size is not None:
        prepared.append("at {}x{}".format(*train.input_size))
    trained = [_describe_loss(train.loss), f"{train.optimizer.name} {train.optimizer.lr:g}"]
    if train.encoder_weights is not None:
        trained.append(f"pretrained on {train.encoder_weights}")
    if train.ema is not None:
        trained.append(f"ema {train.ema.decay:g}")
    if train.clip_grad_norm is not None:
        trained.append(f"clip {train.clip_grad_norm:g}")
    if train.test_time_flips != "none":
        trained.append(f"test-time flips {train.test_time_flips}")
    return Description(
        arch=_short(train.arch),
        encoder=train.encoder,
        augmentation=" + ".join(part for part in prepared if part),
        training=", ".join(trained),
    )


def _name_augmentation(augmentation: str | tuple[TransformConfig, ...]) -> str:
    if isinstance(augmentation, str):
        return "" if augmentation == "none" else augmentation
    return ", ".join(_short(transform.name) for transform in augmentation)


def _describe_sampling(sampling: SamplingConfig) -> list[str]:
    parts = []
    for repeat in sampling.repeat:
        classes = repeat.classes if isinstance(repeat.classes, str) else f"class {', '.join(map(str, repeat.classes))}"
        own = "" if repeat.augmentation is None else f" ({_name_augmentation(repeat.augmentation) or 'none'})"
        parts.append(f"{classes} x{repeat.factor}{own}")
    if sampling.weight_power > 0:
        parts.append(f"drawn by rarity^{sampling.weight_power:g}")
    return parts


def _describe_loss(loss: LossConfig) -> str:
    """``focal(2)``, ``0.5 dice + boundary``; with the classes that it ignores, where it sets them itself."""
    if isinstance(loss, SumLoss):
        terms = [(f"{term.weight:g} " if term.weight != 1 else "") + _describe_loss(term.loss) for term in loss.terms]
        text = " + ".join(terms)
    else:
        options = loss.model_dump(exclude={"name", "ignore_classes", "options"})
        values = ", ".join(f"{value:g}" for value in options.values())
        name: str = getattr(loss, "name", "")
        text = _short(name) if is_import_path(name) else name.replace("_", " ")
        text += f"({values})" if values else ""
    if loss.ignore_classes is None:
        return text
    return (
        f"{text}, every class" if not loss.ignore_classes else f"{text}, without class {', '.join(map(str, loss.ignore_classes))}"
    )


def _short(name: str) -> str:
    """Without the module of a custom component."""
    return name.rpartition(":")[2]
