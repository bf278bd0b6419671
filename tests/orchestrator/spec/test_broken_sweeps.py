"""Broken sweep files, each with what the message must say: from load_spec, and from the command."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from orchestrator.cli import main
from orchestrator.errors import SpecError
from orchestrator.spec import load_spec
from orchestrator.state.ledger import Ledger


@dataclass(frozen=True)
class Broken:
    """A sweep file that must be refused with exit code 2, and pieces that its message must contain."""

    name: str
    text: str
    line: int | None
    pieces: tuple[str, ...]
    options: tuple[str, ...] = ()


BROKEN = [
    Broken("empty", "# nothing here\n", None, ("is empty", "'search', 'rows' or 'base'")),
    Broken("list_at_top", "- a\n- b\n", 1, ("a list", "Allowed: a mapping")),
    Broken("tab", "base:\n\tepochs: 3\n", 2, ("not YAML", "spaces, not with tabs")),
    Broken(
        "duplicate_key", "base:\n  epochs: 3\n  arch: Unet\n  epochs: 4\n", 4, ("base.epochs is given twice, first in line 2",)
    ),
    Broken("unknown_key", "nmae: a\n", 1, ("nmae: not a known field", "Did you mean 'name'?")),
    Broken("misplaced_key", "epochs: 3\n", 1, ("epochs: not a known field", "Did you mean 'base.epochs'?")),
    Broken("not_yet", "ensemble: 4\n", 1, ("ensemble: this version does not have it yet",)),
    Broken(
        "unknown_field", "base:\n  optimizer:\n    learning_rate: 1\n", 3, ("base.optimizer.learning_rate", "Known: name, lr")
    ),
    Broken(
        "unknown_loss",
        "search:\n  method: grid\n  space:\n    loss:\n      - {name: dice}\n      - {name: focall}\n",
        6,
        ("search.space.loss[1].name is 'focall'", "Known: focal,", "Did you mean 'focal'?"),
    ),
    Broken("unknown_arch", "base: {arch: unet}\n", 1, ("base.arch is 'unet'", "Did you mean 'Unet'?")),
    Broken("unknown_encoder", "base:\n  encoder: resnet81\n", 2, ("base.encoder is 'resnet81'", "Did you mean 'resnet18'?")),
    Broken(
        "option_of_another_architecture",
        "base:\n  arch_options: {decoder_channels: [64, 32, 16, 16, 16]}\nrows:\n  - {id: 1}\n  - {id: 2, arch: FPN}\n",
        5,
        ("rows[1]", "'decoder_channels' is not a known option of FPN", "decoder_pyramid_channels"),
    ),
    Broken("wrong_type", "base:\n  epochs: many\n", 2, ("base.epochs is 'many'", "Allowed: a whole number")),
    Broken("bool_for_number", "base:\n  epochs: true\n", 2, ("base.epochs is true", "Allowed: a whole number")),
    Broken("out_of_range", "base:\n  batch_size: 0\n", 2, ("base.batch_size is 0", "Allowed: at least 1")),
    Broken("trials_per_gpu", "resources: {trials_per_gpu: 0}\n", 1, ("resources.trials_per_gpu is 0", "Allowed: at least 1")),
    Broken(
        "misspelled_auto",
        "resources: {trials_per_gpu: atuo}\n",
        1,
        ("resources.trials_per_gpu is 'atuo'", "Allowed: auto or a whole number", "Did you mean 'auto'?"),
    ),
    Broken("misspelled_resource", "resources: {trials_per_gpus: 2}\n", 1, ("Did you mean 'trials_per_gpu'?",)),
    Broken("field_of_another_loss", "base:\n  loss: {name: dice, gamma: 2}\n", 2, ("base.loss.gamma: not a known field",)),
    Broken(
        "unknown_method",
        "search:\n  method: gird\n  space: {epochs: [1]}\n",
        2,
        ("search.method is 'gird'", "Known: grid, random, tpe", "Did you mean 'grid'?"),
    ),
    Broken(
        "unknown_path",
        "search:\n  method: grid\n  space:\n    optimizer.lrr: [0.1, 0.2]\n",
        4,
        ("search.space.optimizer.lrr", "Known: optimizer.name, optimizer.lr", "Did you mean 'optimizer.lr'?"),
    ),
    Broken(
        "range_in_grid",
        "search:\n  method: grid\n  space:\n    optimizer.lr: {low: 1e-4, high: 1e-2}\n",
        4,
        ("search.space.optimizer.lr is a range", "'step'"),
    ),
    Broken(
        "no_budget",
        "search:\n  method: tpe\n  space:\n    optimizer.lr: {low: 1e-4, high: 1e-2, log: true}\n",
        2,
        ("search.method is 'tpe'", "budget: {trials: 50}"),
    ),
    Broken(
        "bad_choice",
        "search:\n  method: random\n  space:\n    epochs:\n      - 2\n      - -3\nbudget: {trials: 4}\n",
        6,
        ("search.space.epochs[1] is -3", "Allowed: at least 1"),
    ),
    Broken(
        "bad_end_of_range",
        "search:\n  method: random\n  space:\n    optimizer.lr: {low: -1, high: 1}\nbudget: {trials: 4}\n",
        4,
        ("search.space.optimizer.lr is -1", "Allowed: above 0"),
    ),
    Broken(
        "condition_missing",
        "search:\n  method: grid\n  space:\n    loss: [{name: focal}, {name: dice}]\n    loss.gamma: [1, 2]\n",
        5,
        ("search.space.loss.gamma", "not a known field", "'when'"),
    ),
    Broken(
        "condition_never_holds",
        "search:\n  method: grid\n  space:\n    loss: [{name: focal}, {name: dice}]\n"
        "    epochs:\n      choices: [1, 2]\n      when: {loss.name: focall}\n",
        7,
        ("search.space.epochs.when never holds",),
    ),
    Broken(
        "condition_above_its_cause",
        "search:\n  method: grid\n  space:\n    epochs:\n      choices: [1, 2]\n      when: {loss.name: focal}\n"
        "    loss: [{name: focal}, {name: dice}]\n",
        6,
        ("search.space.epochs.when.loss.name", "further down"),
    ),
    Broken("repeated_choice", "search:\n  method: grid\n  space:\n    epochs: [1, 2, 1]\n", 4, ("search.space.epochs", "twice")),
    Broken(
        "two_names_of_one_point",
        "search:\n  method: grid\n  space:\n    loss: [{name: focal}, {name: focal, gamma: 2}]\n",
        3,
        ("are one configuration",),
    ),
    Broken(
        "grid_too_large", "search:\n  method: grid\n  space:\n    epochs: {low: 1, high: 90000, step: 1}\n", 4, ("larger step",)
    ),
    Broken("same_rows", "rows:\n  - {id: 8}\n  - {id: 9}\n", 3, ("rows[1]", "id 9", "id 8", "'seed'")),
    Broken("same_ids", "rows:\n  - {id: 8}\n  - {id: '8', epochs: 2}\n", 3, ("rows[1].id is '8'", "Allowed: distinct ids")),
    Broken("unknown_in_row", "rows:\n  - id: 8\n    epoch: 2\n", 3, ("rows[0].epoch", "Did you mean 'epochs'?")),
    Broken(
        "bad_value_in_row", "rows:\n  - id: 8\n    loss: {name: focal, gamma: x}\n", 3, ("rows[0].loss.gamma is 'x'", "a number")
    ),
    Broken("unknown_member", "rows:\n  - id: 8\nensembles:\n  - {id: 1, members: [9]}\n", 4, ("members[0] is 9", "Known: 8")),
    Broken(
        "rows_and_search",
        "rows: [{id: 1}]\nsearch: {method: grid, space: {epochs: [1]}}\n",
        1,
        ("rows: is given together",),
    ),
    Broken("half_a_pair", "data: {size: [64]}\n", 1, ("data.size[1] is missing",)),
    Broken("keep_a_word", "keep: {checkpoints: nnoe}\n", 1, ("keep.checkpoints is 'nnoe'", "from 1", "Did you mean 'none'?")),
    Broken("keep_too_few", "keep:\n  checkpoints: 0\n", 2, ("keep.checkpoints is 0", "Allowed: all, none, or a whole number")),
    Broken(
        "keep_in_16_bits", "keep:\n  predictions: u16\n", 2, ("keep.predictions: not a known field. Known: checkpoints, flips",)
    ),
    Broken("keep_flipped", "keep: {flips: horizontl}\n", 1, ("keep.flips is 'horizontl'", "both", "Did you mean 'horizontal'?")),
    Broken("notify_no_list", "notify: {chat: slack}\n", 1, ("notify is neither an address nor a list", "${NAME}")),
    Broken("seed_twice", "seeds: [0, 1, 0]\n", 1, ("seeds", "holds a seed twice")),
    Broken("bad_name", "name: my sweep\n", 1, ("name is 'my sweep'", "letters, digits")),
    Broken(
        "bad_override", "name: a\n", None, ("--set base.epochs=no: base.epochs is 'no'", "a whole number"), ("base.epochs=no",)
    ),
    Broken(
        "bad_name_in_override",
        "base: {epochs: 2}\n",
        None,
        ("--set base.loss.name=focall: base.loss.name is 'focall'", "Did you mean 'focal'?"),
        ("base.loss.name=focall",),
    ),
    Broken("home_of_nobody", "rows:\n  - {id: 1, data: {source: ~no-such/a.npz}}\n", 2, ("rows[0].data.source is '~no-such/a",)),
    Broken("null_byte", 'data: {source: "a\\0.npz"}\n', 1, ("data.source is 'a", "null byte")),
    Broken("no_override", "name: a\n", None, ("--set base.epochs", "a.b=value"), ("base.epochs",)),
]
"""A CLI test writes each ``text`` to a file, passes ``options`` as --set, and expects exit code 2 and the pieces."""


@pytest.mark.parametrize("broken", BROKEN, ids=lambda b: b.name)
def test_a_broken_sweep_file_says_where_and_what(broken: Broken, tmp_path: Path) -> None:
    """The message names file and line, what was found and what is allowed."""
    path = tmp_path / f"{broken.name}.yaml"
    path.write_text(broken.text)

    with pytest.raises(SpecError) as caught:
        load_spec(path, broken.options)

    message = str(caught.value)
    print(message)
    if not broken.options:
        assert message.startswith(f"{path}:{broken.line}: " if broken.line else f"{path}: ")
    assert [piece for piece in broken.pieces if piece not in message] == []


@pytest.mark.parametrize("broken", BROKEN, ids=lambda broken: broken.name)
def test_the_command_refuses_it_with_exit_code_2(
    broken: Broken, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`orchestrate sweep` prints the same on standard error, starts nothing, and exits with 2."""
    path = tmp_path / f"{broken.name}.yaml"
    path.write_text(broken.text, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    options = [argument for option in broken.options for argument in ("--set", option)]
    monkeypatch.setattr("sys.argv", ["orchestrate", "sweep", str(path), "--plan", *options])

    with pytest.raises(SystemExit) as exited:
        main()

    captured = capsys.readouterr()
    assert exited.value.code == 2
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert [piece for piece in broken.pieces if piece not in captured.err] == []
    assert not (tmp_path / "mlruns" / "trials").exists()


def test_a_file_that_is_not_utf8_names_the_line(tmp_path: Path) -> None:
    """The message names the byte and its line."""
    (tmp_path / "a.yaml").write_bytes(b"name: a\ndescription: \xff\n")
    with pytest.raises(SpecError, match=r"a\.yaml:2: holds byte 0xff, which is not UTF-8"):
        load_spec(tmp_path / "a.yaml")


def test_a_missing_file_names_its_nearest_sibling(tmp_path: Path) -> None:
    """The message suggests the file that exists."""
    (tmp_path / "losses.yaml").write_text("name: losses\n")
    with pytest.raises(SpecError, match=r"loses\.yaml: not found\. Did you mean '.*losses\.yaml'\?"):
        load_spec(tmp_path / "loses.yaml")


def test_a_folder_is_no_sweep_file(tmp_path: Path) -> None:
    """The message lists the sweep files in the folder."""
    (tmp_path / "losses.yaml").write_text("name: losses\n")
    with pytest.raises(SpecError, match=r"is a folder\. Name one sweep file in it: losses\.yaml"):
        load_spec(tmp_path)


def test_all_errors_are_listed_in_the_order_of_the_file(tmp_path: Path) -> None:
    """One line per error, the first one first."""
    path = tmp_path / "a.yaml"
    path.write_text("seeds: x\nbase:\n  epochs: 0\n  encoder: resnet81\nfolds: 1\n")
    with pytest.raises(SpecError) as caught:
        load_spec(path)
    starts = [line.split(" is ")[0] for line in str(caught.value).splitlines()]
    assert starts == [f"{path}:1: seeds", f"{path}:3: base.epochs", f"{path}:4: base.encoder", f"{path}:5: folds"]


def test_retry_of_an_unknown_sweep_names_the_known_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A misspelled sweep is refused, and nothing is reset."""
    monkeypatch.setenv("ORCHESTRATE_HOME", str(tmp_path))
    Ledger(f"sqlite:///{tmp_path / 'ledger.db'}").register("losses", [("a", "one")])
    monkeypatch.setattr("sys.argv", ["orchestrate", "retry", "loses"])
    with pytest.raises(SystemExit) as exited:
        main()
    assert exited.value.code == 2
    assert "'loses' is not a known sweep. Known: losses. Did you mean 'losses'?" in capsys.readouterr().err
