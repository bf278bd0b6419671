"""Searches over real sweep files, recorded in real storages, with values from a formula."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import optuna
import pytest

from orchestrator.dispatch.loop.ports import Search
from orchestrator.planning.configuration import Configuration, DataFacts, Facts, source_part
from orchestrator.planning.plan import make_plan
from orchestrator.search import StudySearch, build_search, read_known
from orchestrator.search.pruning import History
from orchestrator.search.storage import open_storage
from orchestrator.spec import SweepSpec, load_spec
from orchestrator.state.trial.records import TrialState
from trainers.config import DataConfig

FACTS = Facts(data={source_part(DataConfig()): DataFacts("f" * 16, Path("prepared"), 16, 64, 128, 5, ("a", "b", "c", "d", "e"))})
GRID = "search: {method: grid, space: {arch: [Unet, FPN], epochs: [1, 2]}}\n"
LR = "search: {{method: {method}, space: {{optimizer.lr: {{low: 1e-4, high: 1e-1, log: true}}}}}}\nbudget: {{trials: {trials}}}\n"
CONDITIONAL = """
search:
  method: {method}
  space:
    loss: [{{name: focal}}, {{name: dice}}, {{name: jaccard}}]
    loss.gamma: {{low: 0.5, high: 4, when: {{loss.name: focal}}}}
    batch_size: {{low: 2, high: 8, step: 2}}
budget: {{trials: {trials}}}
"""
COMPLETE, FAILED = TrialState.COMPLETE, TrialState.FAILED


@pytest.fixture(params=["journal", "sqlite", "postgresql"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Path | str:
    """Each kind of storage."""
    if request.param == "postgresql":
        return str(request.getfixturevalue("postgres").create())
    return tmp_path / "optuna.journal" if request.param == "journal" else f"sqlite:///{tmp_path / 'optuna.db'}"


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    """The storage of one machine."""
    return tmp_path / "optuna.journal"


def read(folder: Path, text: str, name: str = "s.yaml") -> SweepSpec:
    """Write a sweep file and read it."""
    (folder / name).write_text(text)
    return load_spec(folder / name)


def is_nobody(_: str) -> bool:
    """No owner is dead."""
    return False


def build(
    spec: SweepSpec,
    storage: Path | str,
    *,
    owner: str = "me",
    is_dead: Callable[[str], bool] = is_nobody,
    clock: Callable[[], float] = lambda: 0.0,
    states: Mapping[str, TrialState] | None = None,
    history: History = lambda _: {},
    facts: Facts = FACTS,
) -> StudySearch:
    """A search as a new run of the sweep builds it. states: of trials, by key."""
    known = [configuration for configuration, _ in read_known(spec, facts, storage)]
    plan = make_plan(spec, facts, known=known).with_states(states or {})
    return build_search(spec, plan, storage, owner=owner, is_dead=is_dead, clock=clock, history=history)


def proposals(search: Search) -> Iterator[Configuration]:
    """Proposals, until there are no more."""
    while (configuration := search.propose()) is not None:
        yield configuration


def run(search: Search, value_of: Callable[[Configuration], float]) -> list[Configuration]:
    """Propose and report until the search ends."""
    done = []
    for configuration in proposals(search):
        search.tell(configuration, value_of(configuration), COMPLETE)
        done.append(configuration)
    return done


def by_rate(configuration: Configuration) -> float:
    """Best at a rate of 0.01."""
    return 1 - abs(configuration.train.optimizer.lr - 0.01)


def trials_in(storage: Path | str) -> list[optuna.trial.FrozenTrial]:
    """All trials of all studies."""
    opened = open_storage(storage)
    names = optuna.get_all_study_names(opened)
    return [trial for name in names for trial in optuna.load_study(study_name=name, storage=opened).get_trials()]
