"""One point of the search as a training: SweepSpec + chosen values + facts about data and code -> Configuration."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orchestrator.spec.document import Place
from orchestrator.spec.model import Row, SweepSpec
from orchestrator.spec.space import SOURCE_PATHS, Params, build_point, build_row, enumerate_points, sample_points
from orchestrator.state.trial.records import make_key
from trainers.config import Augmentation, DataConfig, Fold, TrainConfig, is_import_path
from trainers.config.loss import Loss, SumLoss


@dataclass(frozen=True)
class DataFacts:
    """Facts about a data set.

    fingerprint: of the source. folder: the prepared set on this machine, as trainers.data.open_dataset reads it.
    num_images: after cleaning. removed: positions in the source of images removed by cleaning. source: as in the sweep file.
    """

    fingerprint: str
    folder: Path
    num_images: int
    height: int
    width: int
    num_classes: int
    class_names: tuple[str, ...]
    removed: tuple[int, ...] = ()
    source: str = ""


@dataclass(frozen=True)
class SplitSizes:
    """Number of images in each part of a split."""

    num_train: int
    num_val: int


@dataclass(frozen=True)
class Facts:
    """What preflight found out about the data sets of a sweep, by ``source_part``, and about custom code (import path -> hash).

    splits: sizes of each split that was tried, by ``split_part``.
    again: the name under which everything is trained again.
    """

    data: Mapping[str, DataFacts] = field(default_factory=dict)
    code: Mapping[str, str] = field(default_factory=dict)
    splits: Mapping[str, SplitSizes] = field(default_factory=dict)
    again: str | None = None

    def of(self, data: DataConfig) -> DataFacts:
        """Facts about the set that ``data`` reads, however it is split."""
        return self.data[source_part(data)]

    def sizes_of(self, data: DataConfig, fold: Fold | None) -> SplitSizes:
        """Sizes of a split; computed from the configuration if it was not tried."""
        if (tried := self.splits.get(split_part(data, fold))) is not None:
            return tried
        num_images = self.of(data).num_images
        num_val = round(num_images * (1 / fold.count if fold else data.val_fraction))
        num_train = num_images - num_val
        return SplitSizes(num_train if data.limit is None else min(num_train, data.limit), num_val)

    def code_of(self, train: TrainConfig) -> dict[str, str]:
        """Import path -> hash of the source file, for custom code in this training."""
        return {path: self.code[path] for _, path in import_paths(train)}

    def key_of(self, train: TrainConfig, data: DataConfig, seed: int | None = None, fold: Fold | None = None) -> str:
        """The key of a trial; without seed and fold, the id of its configuration."""
        found, code = self.of(data), self.code_of(train)
        return make_key(
            train,
            data,
            seed=seed,
            fold=fold,
            source_fingerprint=found.fingerprint,
            code=code,
            removed=found.removed,
            again=self.again,
        )


@dataclass(frozen=True)
class Configuration:
    """One point of the search, valued by the mean over its trials.

    params: dotted path -> chosen value, or ``row`` -> the row's id. label: for people, unique in a plan.
    id: 16 hexadecimal digits, the key without seed and fold. seed: the row's own, which replaces the sweep's seeds.
    """

    train: TrainConfig
    data: DataConfig
    params: Mapping[str, Any]
    label: str
    id: str
    seed: int | None = None


@dataclass(frozen=True)
class UncheckedConfiguration:
    """A configuration whose data and code have not been checked. params: as in Configuration, for messages."""

    train: TrainConfig
    data: DataConfig
    params: Mapping[str, Any]


def resolve(spec: SweepSpec, choice: Params | Row, facts: Facts) -> Configuration:
    """Apply a row, or the values of a point, to the sweep's base.

    Raises:
        BuildError: the values do not fit.
    """
    built = _build(spec, choice)
    if isinstance(choice, Row):
        label, seed = choice.title, choice.seed
    else:  # what varies: ``focal-2``, ``Unet-resnet18``, ``dice-lr=0.001``
        varied = "-".join(_label_value(path, value) for path, value in built.params.items())
        label, seed = varied or f"{built.train.arch}-{built.train.encoder}", None
    id = facts.key_of(built.train, built.data)
    return Configuration(built.train, built.data, built.params, label=label, id=id, seed=seed)


def _build(spec: SweepSpec, choice: Params | Row) -> UncheckedConfiguration:
    if isinstance(choice, Row):
        return UncheckedConfiguration(*build_row(spec.base, spec.data, choice), params={"row": choice.id})
    return UncheckedConfiguration(*build_point(spec.base, spec.data, choice), params=dict(choice))


def list_choices(spec: SweepSpec) -> Iterator[Params | Row]:
    """The choices of a sweep that is not open-ended, in the order of the file: rows, points of the grid, or base alone."""
    if spec.search is None:
        yield from spec.rows or ({},)
    elif not spec.is_open_ended:
        yield from enumerate_points(spec.search.space, spec.base, spec.data, values=lambda p: p.values or ())


def list_unchecked(spec: SweepSpec) -> Iterator[UncheckedConfiguration]:
    """Everything that preflight checks: the whole plan, or points that cover every choice of an open-ended search."""
    choices: Iterator[Params | Row] = list_choices(spec)
    if spec.search is not None and spec.is_open_ended:
        choices = sample_points(spec.search, spec.base, spec.data)
    return (_build(spec, choice) for choice in choices)


def source_part(data: DataConfig) -> str:
    """The fields of ``data`` that decide what is read and prepared, as canonical text."""
    return data.model_dump_json(include=set(SOURCE_PATHS))


def split_part(data: DataConfig, fold: Fold | None) -> str:
    """The fields that decide a split, as canonical text."""
    return f"{data.model_dump_json()} {fold.model_dump_json() if fold else ''}"


def import_paths(train: TrainConfig) -> Iterator[tuple[Place, str]]:
    """Custom code of a training: its place in the configuration and ``package.module:attribute``."""
    named: list[tuple[Place, str]] = [(("arch",), train.arch)]
    named += [((*place, "name"), loss.name) for place, loss in each_loss(train.loss)]
    for place, augmentation in each_augmentation(train):
        if not isinstance(augmentation, str):
            named += [((*place, i, "name"), transform.name) for i, transform in enumerate(augmentation)]
    return ((place, name) for place, name in named if is_import_path(name))


def each_loss(loss: Loss) -> Iterator[tuple[Place, Loss]]:
    """The loss and the terms of a sum, each with its place in the configuration."""
    yield ("loss",), loss
    if isinstance(loss, SumLoss):
        yield from ((("loss", "terms", i, "loss"), term.loss) for i, term in enumerate(loss.terms))


def each_augmentation(train: TrainConfig) -> Iterator[tuple[Place, Augmentation]]:
    """The training's augmentation and those of its repetitions, each with its place in the configuration."""
    yield ("augmentation",), train.augmentation
    for i, repeat in enumerate(train.sampling.repeat):
        if repeat.augmentation is not None:
            yield ("sampling", "repeat", i, "augmentation"), repeat.augmentation


def _label_value(path: str, value: Any) -> str:
    name = path.rpartition(".")[2]
    if path == "data.clean" and value is not None:
        return f"clean={Path(value).stem if isinstance(value, str) else len(value)}"
    if isinstance(value, str):
        return Path(value).stem if path == "data.source" else value.rpartition(":")[2]
    if isinstance(value, dict):
        return "-".join([_title(value, name), *(_label_inner(k, v) for k, v in value.items() if k != "name")])
    if isinstance(value, list | tuple):
        return "+".join(_title(item, name) for item in value) or f"{name}=none"
    return f"{name}={_label_number(value)}"


def _title(value: Any, name: str) -> str:
    """An object's name without its options: labels are short, and equal ones get a part of their id."""
    return str(value.get("name", name)).rpartition(":")[2] if isinstance(value, dict) else _label_number(value)


def _label_inner(key: str, value: Any) -> str:
    """Numbers inside an object need no name (``focal-2``); other values get one."""
    if isinstance(value, dict | list):
        return key
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return _label_number(value) if is_number else f"{key}={_label_number(value)}"


def _label_number(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "none", True: "true", False: "false"}[value]
    return f"{value:.4g}" if isinstance(value, float) else str(value)
