"""The walls of the house: who may import whom."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MODULES = sorted(path.relative_to(ROOT) for package in ("orchestrator", "trainers") for path in (ROOT / package).rglob("*.py"))


def imports_of(module: Path) -> Iterator[str]:
    """Every module that ``module`` imports anywhere, also inside functions, by full name."""
    for node in ast.walk(ast.parse((ROOT / module).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: relative import; write the full name"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def importers_of(package: str) -> set[str]:
    """Modules that import ``package`` or something inside it."""
    return {
        module.as_posix()
        for module in MODULES
        if any(name == package or name.startswith(package + ".") for name in imports_of(module))
    }


def test_trainers_know_nothing_of_the_orchestrator() -> None:
    """A person can use trainers by itself."""
    assert not {module for module in importers_of("orchestrator") if module.startswith("trainers/")}


@pytest.mark.parametrize(
    ("system", "rooms"),
    [
        ("optuna", {"orchestrator/search/"}),
        ("mlflow", {"orchestrator/tracking/"}),
        ("sqlalchemy", {"orchestrator/ledger/"}),
        ("ray", {"orchestrator/launchers/ray.py"}),
        ("apscheduler", {"orchestrator/operations/schedule/clock.py"}),
        ("apprise", {"orchestrator/dispatch/notifications.py"}),
        ("numba", {"orchestrator/ensemble/selection/kernel.py"}),
        ("llvmlite", {"orchestrator/ensemble/selection/kernel.py"}),
        ("scipy", {"orchestrator/ensemble/evaluation/stacking.py", "orchestrator/ensemble/evaluation/crossfit.py"}),
        ("albumentations", {"trainers/loader/transforms.py", "orchestrator/launchers/worker/preload.py"}),
        (
            "segmentation_models_pytorch",
            {
                "trainers/models/build.py",
                "trainers/models/upsample.py",
                "trainers/losses.py",
                "orchestrator/launchers/worker/preload.py",
            },
        ),
    ],
)
def test_one_outside_system_one_module(system: str, rooms: set[str]) -> None:
    """Only the module named after it imports an outside system."""
    strangers = {module for module in importers_of(system) if not any(module.startswith(room) for room in rooms)}
    assert not strangers


def test_orchestrator_sees_the_trainers_only_where_it_may() -> None:
    """trainers.config and .means anywhere; data and checks in preflight, training in the worker, the figure of merit in stats."""
    allowed = {
        "orchestrator/planning/preflight.py": ("trainers.data", "trainers.loader.augment", "trainers.imports", "trainers.errors"),
        "orchestrator/launchers/worker/main.py": ("trainers.",),
        "orchestrator/launchers/worker/validation.py": ("trainers.data", "trainers.training.evaluate", "trainers.training.train"),
        "orchestrator/state/trial/failures.py": ("trainers.errors",),
        "orchestrator/launchers/worker/preload.py": ("trainers.",),
        "orchestrator/operations/data/source.py": ("trainers.data", "trainers.errors"),
        "orchestrator/operations/data/check.py": ("trainers.data",),
        "orchestrator/operations/data/sheet.py": ("trainers.data",),
        "orchestrator/operations/data/show.py": ("trainers.data",),
        "orchestrator/operations/data/make.py": ("trainers.data",),
        "orchestrator/analysis/stats.py": ("trainers.metrics",),
        "orchestrator/ensemble/evaluation/audit.py": ("trainers.metrics",),
        "orchestrator/ensemble/evaluation/diversity.py": ("trainers.metrics",),
        "orchestrator/ensemble/evaluation/stacking.py": ("trainers.metrics",),
        "orchestrator/ensemble/predict/predict.py": (
            "trainers.data.unlabelled",
            "trainers.prediction.ensemble",
            "trainers.errors",
        ),
        "orchestrator/ensemble/predict/export.py": (
            "trainers.prediction.ensemble",
            "trainers.prediction.predict.read_metadata",
            "trainers.errors",
        ),
        "orchestrator/tracking/models/served_model.py": (
            "trainers.prediction.ensemble",
        ),  # runs beside a copy of trainers, elsewhere
        "orchestrator/ensemble/__init__.py": (
            "trainers.prediction.predict.quantize",
        ),  # floats of a user's own become what is stored
    }
    for module in MODULES:
        if module.parts[0] != "orchestrator":
            continue
        for name in imports_of(module):
            if name.startswith("trainers.") and not name.startswith(("trainers.config", "trainers.prediction.means")):
                assert name.startswith(allowed.get(module.as_posix(), ("nothing",))), f"{module} imports {name}"


def test_the_dispatcher_is_handed_its_parts() -> None:
    """The dispatcher builds no search, launcher or tracker."""
    forbidden = ("orchestrator.search", "orchestrator.tracking", "orchestrator.launchers.local", "orchestrator.launchers.inline")
    assert not [name for name in imports_of(Path("orchestrator/dispatch/loop/dispatcher.py")) if name.startswith(forbidden)]


def test_a_launcher_knows_its_seam_only() -> None:
    """A launcher imports launchers/, trial, worker, errors and home of ours, nothing else."""
    known = (
        "orchestrator.launchers",
        "orchestrator.state.trial.records",
        "orchestrator.errors",
        "orchestrator.launchers.worker.main",
        "orchestrator.state.home",
    )
    for module in MODULES:
        if module.parts[:2] == ("orchestrator", "launchers"):
            ours = [name for name in imports_of(module) if name.startswith(("orchestrator", "trainers"))]
            assert all(name.startswith(known) for name in ours), f"{module}: {ours}"


def test_help_loads_nothing_heavy() -> None:
    """`orchestrate --help` needs no torch, optuna, mlflow, pandas or ray."""
    code = (
        "import sys\nfrom orchestrator.cli import main\nsys.argv = ['orchestrate', '--help']\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "print('LOADED', sorted({name.partition('.')[0] for name in sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = done.stdout[done.stdout.index("LOADED") :]
    assert "sweep" in done.stdout
    for heavy in (
        "torch",
        "optuna",
        "mlflow",
        "ray",
        "pandas",
        "numpy",
        "numba",
        "sqlalchemy",
        "albumentations",
        "pydantic",
        "apscheduler",
    ):
        assert f"'{heavy}'" not in loaded
