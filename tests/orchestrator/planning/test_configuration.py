from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.planning.configuration import Configuration, DataFacts, Facts, list_choices, resolve, source_part
from orchestrator.planning.plan import plan_trials
from orchestrator.spec import SweepSpec, load_spec
from orchestrator.spec.space import BuildError, fits
from trainers.config import DataConfig, OptimizerConfig, TrainConfig
from trainers.config.loss import DiceLoss, FocalLoss

FACTS = DataFacts("f" * 16, Path("prepared"), 16, 64, 128, 5, ("background", "soil", "bedrock", "sand", "rock"))


class AnyData(dict[str, DataFacts]):
    """The same facts for every data set."""

    def __missing__(self, key: str) -> DataFacts:
        return FACTS


class AnyCode(dict[str, str]):
    """The same hash for all code."""

    def __missing__(self, key: str) -> str:
        return "c" * 16


def facts(**code: str) -> Facts:
    """Facts about every data set and import path."""
    return Facts(data=AnyData(), code=AnyCode(code))


def read(folder: Path, text: str, name: str = "sweep.yaml") -> SweepSpec:
    """Write a sweep file and read it."""
    (folder / name).write_text(text)
    return load_spec(folder / name)


def configurations(spec: SweepSpec) -> list[Configuration]:
    """All configurations of a planned sweep."""
    return [resolve(spec, choice, facts()) for choice in list_choices(spec)]


def grid(space: str) -> str:
    """A sweep over ``space`` whose base has a focal loss with gamma 3."""
    return f"base: {{loss: {{name: focal, gamma: 3}}}}\nsearch:\n  method: grid\n  space:\n{space}"


def test_a_grid_is_the_product_of_its_choices(tmp_path: Path) -> None:
    """Every combination once, the last parameter changing fastest."""
    spec = read(tmp_path, grid("    arch: [Unet, FPN]\n    epochs: {low: 1, high: 3, step: 1}\n"))
    assert [(c.train.arch, c.train.epochs) for c in configurations(spec)] == [(a, e) for a in ("Unet", "FPN") for e in (1, 2, 3)]


def test_an_object_replaces_what_base_has(tmp_path: Path) -> None:
    """A chosen loss inherits nothing from the loss of base."""
    spec = read(tmp_path, grid("    loss: [{name: focal}, {name: dice}]\n"))
    assert [c.train.loss for c in configurations(spec)] == [FocalLoss(name="focal", gamma=2), DiceLoss(name="dice")]


def test_a_nested_path_changes_one_field(tmp_path: Path) -> None:
    """`loss.ignore_classes` leaves gamma as base has it."""
    spec = read(tmp_path, grid("    loss.ignore_classes: [[], [0]]\n"))
    assert [c.train.loss for c in configurations(spec)] == [
        FocalLoss(name="focal", gamma=3, ignore_classes=()),
        FocalLoss(name="focal", gamma=3, ignore_classes=(0,)),
    ]


def test_a_condition_looks_at_what_stands_above(tmp_path: Path) -> None:
    """A loss's gamma exists only for focal; a field that does not exist is not varied."""
    spec = read(
        tmp_path,
        grid("    loss: [{name: focal}, {name: dice}]\n    loss.gamma: {choices: [1, 2], when: {loss.name: focal}}\n"),
    )
    assert [dict(c.params) for c in configurations(spec)] == [
        {"loss": {"name": "focal"}, "loss.gamma": 1},
        {"loss": {"name": "focal"}, "loss.gamma": 2},
        {"loss": {"name": "dice"}},
    ]


def test_a_condition_sees_unwritten_defaults(tmp_path: Path) -> None:
    """Conditions look at the configuration, not at the file."""
    text = (
        "search:\n  method: grid\n  space:\n    epochs: {choices: [1, 2], when: {optimizer.name: adamw, data.limit: [null, 5]}}\n"
    )
    assert len(configurations(read(tmp_path, text))) == 2


def test_data_is_varied_under_its_prefix(tmp_path: Path) -> None:
    """`data.limit` reaches the data."""
    spec = read(tmp_path, grid("    data.limit: [10, 20]\n"))
    assert [c.data.limit for c in configurations(spec)] == [10, 20]


def test_rows_merge_into_base(tmp_path: Path) -> None:
    """An object of the same name is merged, one of another name replaces; scalars are set; data too."""
    spec = read(
        tmp_path,
        "base: {optimizer: {lr: 0.01}, loss: {name: focal, gamma: 3}}\ndata: {val_fraction: 0.3}\nrows:\n"
        "  - {id: a, optimizer: {weight_decay: 0.1}, loss: {ignore_classes: [0]}}\n"
        "  - {id: b, optimizer: {name: adam}, loss: {name: dice}, data: {limit: 4}}\n",
    )
    a, b = configurations(spec)
    assert (a.train.optimizer.lr, a.train.optimizer.weight_decay) == (0.01, 0.1)
    assert a.train.loss == FocalLoss(name="focal", gamma=3, ignore_classes=(0,))
    assert (b.train.optimizer, b.train.loss) == (OptimizerConfig(name="adam"), DiceLoss(name="dice"))
    assert (b.data.limit, b.data.val_fraction) == (4, 0.3)


def test_two_rows_of_one_configuration_share_its_id(tmp_path: Path) -> None:
    """Rows that differ in their seeds alone are one configuration and two trials."""
    spec = read(tmp_path, "rows:\n  - {id: 8, seed: 0}\n  - {id: 9, seed: 1}\n")
    one, other = configurations(spec)
    assert (one.id, one.label, other.label) == (other.id, "row 8", "row 9")
    assert plan_trials(one, spec, facts())[0].spec.key != plan_trials(other, spec, facts())[0].spec.key


@pytest.mark.parametrize(
    ("entry", "labels"),
    [
        ("loss: [{name: focal, gamma: 2}, {name: dice}]", ["focal-2", "dice"]),
        ("arch: [Unet, FPN]", ["Unet", "FPN"]),
        ("optimizer.lr: [0.001, 0.01]", ["lr=0.001", "lr=0.01"]),
        ("early_stopping: [null, {patience: 3}]", ["early_stopping=none", "early_stopping-3"]),
        ("augmentation: [none, [{name: HorizontalFlip}, {name: 'mine.moves:Shake'}]]", ["none", "HorizontalFlip+Shake"]),
        ("data.source: [synthetic, ../x/mars_train.npz]", ["synthetic", "mars_train"]),
        ("data.clean: [null, auto, ../x/check.json, [3, 5]]", ["clean=none", "clean=auto", "clean=check", "clean=2"]),
        ("arch_options: [{decoder_attention_type: scse}, {}]", ["arch_options-decoder_attention_type=scse", "arch_options"]),
    ],
)
def test_a_label_says_what_varies(tmp_path: Path, entry: str, labels: list[str]) -> None:
    """Names of runs are readable."""
    assert [c.label for c in configurations(read(tmp_path, grid(f"    {entry}\n")))] == labels


def test_values_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    """A point that was never checked cannot become a configuration either."""
    spec = read(tmp_path, grid("    epochs: [1]\n"))
    with pytest.raises(BuildError, match=r"^epochs is -1\. Allowed: at least 1\."):
        resolve(spec, {"epochs": -1}, facts())


def test_custom_code_is_part_of_the_id(tmp_path: Path) -> None:
    """The same import path with other code is another configuration."""
    spec = read(tmp_path, "base: {loss: {name: 'mine.losses:My'}}\n")
    one, other = (resolve(spec, {}, facts(**{"mine.losses:My": code})) for code in ("aa", "bb"))
    assert one.id != other.id


def test_params_that_fit_are_a_point(tmp_path: Path) -> None:
    """Params fit if each parameter that exists has an allowed value, and there is no other."""
    spec = read(
        tmp_path,
        "search:\n  method: random\n  space:\n    loss: [{name: focal}, {name: dice}]\n"
        "    loss.gamma: {low: 1, high: 3, when: {loss.name: focal}}\n    batch_size: {low: 2, high: 8}\nbudget: {trials: 3}\n",
    )
    assert spec.search is not None

    def is_point(params: Mapping[str, Any]) -> bool:
        assert spec.search is not None
        return fits(spec.search, spec.base, spec.data, params)

    assert is_point({"loss": {"name": "dice"}, "batch_size": 4})
    assert is_point({"loss": {"name": "focal"}, "loss.gamma": 1.5, "batch_size": 4})
    assert not is_point({"loss": {"name": "focal"}, "batch_size": 4})
    assert not is_point({"loss": {"name": "dice"}, "loss.gamma": 1.5, "batch_size": 4})
    assert not is_point({"loss": {"name": "jaccard"}, "batch_size": 4})
    assert not is_point({"loss": {"name": "dice"}, "batch_size": 9})
    assert not is_point({"loss": {"name": "dice"}, "batch_size": 4.5})


# -------------------------------------------------------------------------- laws of specs and keys

LOSSES = st.sampled_from([{"name": "dice"}, {"name": "focal", "gamma": 1.5}, {"name": "cross_entropy", "label_smoothing": 0.1}])
BASES = st.fixed_dictionaries(
    {},
    optional={
        "arch": st.sampled_from(["Unet", "FPN"]),
        "loss": LOSSES,
        "optimizer": st.fixed_dictionaries({}, optional={"name": st.just("adam"), "lr": st.floats(1e-5, 1.0)}),
        "epochs": st.integers(1, 50),
        "augmentation": st.sampled_from(["flip", [{"name": "HorizontalFlip", "options": {"p": 0.5}}]]),
        "early_stopping": st.just({"patience": 3}),
        "arch_options": st.just({"encoder_depth": 4, "decoder_interpolation": {"c": [8, 4], "b": 2}}),
    },
)
DATA = st.fixed_dictionaries(
    {},
    optional={
        "val_fraction": st.floats(0.05, 0.5),
        "ignore_classes": st.sampled_from([[0], [0, 1]]),
        "limit": st.integers(1, 99),
        "id_map": st.just({"0": 0, "3": 1}),
    },
)


def shuffled(value: Any, order: st.DataObject) -> Any:
    """The same document with the keys of its mappings in another order."""
    if isinstance(value, dict):
        return {key: shuffled(value[key], order) for key in order.draw(st.permutations(list(value)))}
    return [shuffled(item, order) for item in value] if isinstance(value, list) else value


def keys_of(folder: Path, document: Mapping[str, Any], name: str = "sweep.yaml") -> list[str]:
    """The keys of a document's trials."""
    spec = read(folder, json.dumps(document), name)
    return [
        trial.spec.key for choice in list_choices(spec) for trial in plan_trials(resolve(spec, choice, facts()), spec, facts())
    ]


@settings(max_examples=60, deadline=None)
@given(base=BASES, data=DATA, order=st.data())
def test_keys_do_not_depend_on_how_a_file_is_written(
    base: dict[str, Any], data: dict[str, Any], order: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """The order of keys, the file's name and folder, and explicit defaults do not change a trial's key."""
    folder = tmp_path_factory.mktemp("keys")
    expected = keys_of(folder, {"base": base, "data": data})
    explicit = {
        "base": TrainConfig.model_validate(base).model_dump(mode="json"),
        "data": DataConfig.model_validate(data).model_dump(mode="json") | {"source": "elsewhere/set.npz"},
    }
    (folder / "deeper").mkdir()

    assert keys_of(folder, shuffled({"data": data, "base": base}, order), "other.yaml") == expected
    assert keys_of(folder / "deeper", shuffled(explicit, order)) == expected


@settings(max_examples=60, deadline=None)
@given(
    base=BASES, data=DATA, seeds=st.lists(st.integers(0, 9), min_size=1, max_size=3, unique=True), folds=st.none() | st.just(3)
)
def test_specs_survive_being_written_and_read(
    base: dict[str, Any], data: dict[str, Any], seeds: list[int], folds: int | None, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Reading what a spec writes gives the same spec."""
    folder = tmp_path_factory.mktemp("specs")
    space = {"epochs": [1, 2], "loss": {"choices": [{"name": "dice"}, {"name": "jaccard"}], "when": {"epochs": [1, 2]}}}
    document = {"name": "a", "base": base, "data": data, "seeds": seeds, "folds": folds}
    spec = read(folder, json.dumps(document | {"search": {"method": "grid", "space": space}}))
    again = read(folder, spec.model_dump_json(exclude_defaults=True), "again.yaml")
    assert again.model_dump() == spec.model_dump()


def test_facts_depend_on_what_is_read_not_on_the_split() -> None:
    """Facts are shared by configurations that split the same set differently."""
    assert source_part(DataConfig(val_fraction=0.2, limit=3, ignore_classes=(0,))) == source_part(DataConfig())
    assert source_part(DataConfig(size=(8, 8))) != source_part(DataConfig())
