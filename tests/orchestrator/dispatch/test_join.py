"""`orchestrate worker` on another machine than the one that planned: what it joins and what it refuses."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from orchestrator.dispatch.join import join_sweep
from orchestrator.errors import DataError, OrchestrateError, SpecError, TrackingError
from orchestrator.launchers.base import Launcher, Requester, SlotRequest
from orchestrator.launchers.choose import LAUNCHERS
from orchestrator.operations.data.make import make_data
from orchestrator.planning.plan import make_plan
from orchestrator.planning.preflight import prepare
from orchestrator.planning.shared import SharedPlan, read_shared_plan, share_plan
from orchestrator.spec import load_spec
from orchestrator.spec.sections import PrunerSpec
from orchestrator.state.home import Home
from orchestrator.state.ledger import Ledger

SWEEP = """
name: shared
priority: 7
data: {source: set.npz, val_fraction: 0.25}
base: {epochs: 1}
search:
  method: grid
  space:
    loss: [{name: focal}, {name: "own_losses:Loss"}]
    optimizer.lr: {low: 0.1, high: 0.3, step: 0.1}
"""


@pytest.fixture
def begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ledger:
    """The plan of a sweep that another machine began; this machine has a separate home and another path to the data."""
    there, here = tmp_path / "there", tmp_path / "here"
    for folder in (there, here / "data"):
        folder.mkdir(parents=True)
    (there / "tiny.yaml").write_text(SWEEP)
    (here / "own_losses.py").write_text("class Loss:\n    pass\n")
    monkeypatch.chdir(here)
    monkeypatch.syspath_prepend(here)
    monkeypatch.delitem(sys.modules, "own_losses", raising=False)  # of another test's folder
    make_data(there / "set.npz", {"num_images": 16, "height": 32, "width": 32})
    url = f"sqlite:///{tmp_path}/ledger.db"
    spec, home, ledger = load_spec(there / "tiny.yaml"), Home(there / "mlruns", storage=url), Ledger(url)
    share_plan(spec, make_plan(spec, prepare(spec, home.data)), home=home, ledger=ledger)
    (there / "set.npz").rename(here / "data" / "set.npz")
    for name, value in (("ORCHESTRATE_HOME", str(here / "mlruns")), ("ORCHESTRATE_STORAGE", url)):
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("ORCHESTRATE_DATA", str(here / "data"))
    return ledger


def refused() -> OrchestrateError:
    """The error that keeps this machine from joining; no worker starts."""
    with pytest.raises(OrchestrateError) as caught:
        join_sweep("shared", launcher="none", slots=None)
    return caught.value


def test_a_plan_survives_the_ledger(begun: Ledger) -> None:
    """A reader gets the same sweep, trials and data."""
    shared = read_shared_plan(begun, "shared")
    assert shared is not None
    assert SharedPlan.model_validate_json(shared.model_dump_json()) == shared
    assert len(shared.trials) == 6
    assert shared.spec.search is not None
    assert [len(parameter.values or ()) for parameter in shared.spec.search.space] == [2, 3]


@pytest.mark.parametrize("kept", ["u8", "u16"])
def test_a_plan_is_read_whose_sweep_kept_predictions_in_16_bits(begun: Ledger, kept: str) -> None:
    """Earlier versions stored `keep.predictions` with every plan; it is ignored."""
    shared = read_shared_plan(begun, "shared")
    assert shared is not None
    document = json.loads(shared.model_dump_json())
    document["spec"]["keep"]["predictions"] = kept
    begun.roster.write_plan("shared", json.dumps(document))
    assert read_shared_plan(begun, "shared") == shared


def test_a_plan_is_read_whose_pruner_had_a_field_over(begun: Ledger) -> None:
    """Earlier versions stored `pruner.over` with every pruner; null and `trials` are ignored, and `images` is refused."""
    shared = read_shared_plan(begun, "shared")
    assert shared is not None
    expected = shared.model_copy(update={"spec": shared.spec.model_copy(update={"pruner": PrunerSpec(name="median")})})
    document = json.loads(expected.model_dump_json())
    for over in (None, "trials"):
        document["spec"]["pruner"]["over"] = over
        begun.roster.write_plan("shared", json.dumps(document))
        assert read_shared_plan(begun, "shared") == expected

    document["spec"]["pruner"]["over"] = "images"
    begun.roster.write_plan("shared", json.dumps(document))
    with pytest.raises(SpecError, match=r"cannot be read by this version of orchestrate \(spec\.pruner\.over"):
        read_shared_plan(begun, "shared")


def test_an_unknown_sweep_is_refused(begun: Ledger) -> None:
    """With the nearest name."""
    with pytest.raises(SpecError, match="Did you mean 'shared'"):
        join_sweep("shred", launcher="inline", slots=None)


def test_missing_data_are_named(begun: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the sweep's path, and by the path that was tried."""
    monkeypatch.setenv("ORCHESTRATE_DATA", "nowhere")
    error = refused()
    assert isinstance(error, DataError)
    assert "there/set.npz: not found on this machine, and neither is" in str(error)
    assert "nowhere/set.npz (ORCHESTRATE_DATA)" in str(error)
    monkeypatch.delenv("ORCHESTRATE_DATA")
    assert "set ORCHESTRATE_DATA to the folder that has it" in str(refused())


def test_other_data_of_the_same_name_are_refused(begun: Ledger) -> None:
    """By their fingerprint, before anything trains on them."""
    Path("data/set.npz").unlink()
    make_data(Path("data/set.npz"), {"num_images": 16, "height": 32, "width": 32, "seed": 1})
    error = refused()
    assert isinstance(error, DataError)
    assert str(error).startswith(f"{Path('data/set.npz').absolute()}: shared began on ")
    assert "different images" in str(error)


def test_other_code_of_the_same_name_is_refused(begun: Ledger) -> None:
    """A custom loss must be the same file."""
    Path("own_losses.py").write_text("class Loss:\n    '''Another one.'''\n")
    error = refused()
    assert isinstance(error, SpecError)
    assert "own_losses:Loss: its file differs" in str(error)


def test_without_a_common_tracking_server_results_would_be_lost(begun: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """If two machines have separate homes; reported before the data are read."""
    shared = read_shared_plan(begun, "shared")
    assert shared is not None
    begun.roster.write_plan("shared", shared.model_copy(update={"host": "far"}).model_dump_json())
    error = refused()
    assert isinstance(error, TrackingError)
    assert "far, which began the sweep, has no MLFLOW_TRACKING_URI" in str(error)
    begun.roster.write_plan("shared", shared.model_copy(update={"host": "far", "has_tracking": True}).model_dump_json())
    assert "this machine has no MLFLOW_TRACKING_URI" in str(refused())


def test_another_version_is_refused(begun: Ledger) -> None:
    """A version that trains differently, and one whose plan cannot be read."""
    shared = read_shared_plan(begun, "shared")
    assert shared is not None
    begun.roster.write_plan("shared", shared.model_copy(update={"trainer_version": 0}).model_dump_json())
    assert "began with trainer version 0" in str(refused())
    begun.roster.write_plan("shared", shared.model_dump_json().replace('"schema_version":1', '"schema_version":9', 1))
    assert "cannot be read by this version of orchestrate (schema_version" in str(refused())


class Launched(Exception):
    """The worker got as far as starting something."""


def test_the_same_data_at_another_path_give_the_same_trials(begun: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """Found by name in ORCHESTRATE_DATA, verified, and planned as on the other machine."""

    def build(asked: SlotRequest) -> Launcher:
        assert asked.requester == Requester("shared", 7)
        raise Launched

    monkeypatch.setitem(LAUNCHERS, "none", build)
    with pytest.raises(Launched):
        join_sweep("shared", launcher="none", slots=None)
    assert begun.roster.list_alive(lambda owner: True) == []
