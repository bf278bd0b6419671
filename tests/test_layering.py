"""The architecture of the packages: who may import whom, and that imports form no cycle."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

ROOMS = {
    "errors": (),
    "spec": ("errors",),
    "state": ("errors",),
    "launchers": ("errors", "state"),
    "tracking": ("errors", "state"),
    "analysis": ("errors", "state", "tracking"),
    "planning": ("errors", "state", "spec", "launchers.slots", "tracking.tags"),
    "search": ("errors", "state", "spec", "planning"),
    "ensemble": ("errors", "state", "tracking", "analysis", "planning.plan", "planning.preflight"),
    "operations": ("errors", "state", "spec", "launchers", "tracking", "analysis", "planning", "search", "ensemble"),
    "dispatch": ("errors", "state", "spec", "launchers", "tracking", "analysis", "planning", "search", "ensemble", "operations"),
    "cli": ("",),
}
"""What each first-level entry of orchestrator/ may import of the others, as in orchestrator/README.md."""

NARROWER = {
    "dispatch.loop": (
        "errors",
        "state",
        "dispatch.loop",
        "launchers.base",
        "launchers.worker.contract",
        "spec.sections",
    ),
    "launchers.worker": ("errors", "state", "launchers.worker", "launchers.base"),
    "launchers.slots": ("errors", "state", "launchers.slots", "launchers.base", "launchers.worker.contract"),
    "tracking.reader": (
        "errors",
        "state",
        *(f"tracking.{name}" for name in ("reader", "client", "errors", "health", "location", "tags")),
    ),
    "tracking.checkpoints": (
        "errors",
        "state",
        *(f"tracking.{name}" for name in ("checkpoints", "client", "errors", "location", "mirror_state", "tags")),
    ),
}
"""Parts of a room that may import less than the room."""

TRAINERS = {
    "spec": ("trainers.config",),
    "state": ("trainers.config", "trainers.errors"),
    "launchers.worker": ("trainers.",),
    "planning.preflight": ("trainers.data", "trainers.loader", "trainers.imports", "trainers.errors"),
    "analysis.stats": ("trainers.metrics",),
    "analysis.report": ("trainers.pictures",),
    "operations.data": ("trainers.data", "trainers.errors", "trainers.pictures"),
    "ensemble": ("trainers.prediction", "trainers.metrics", "trainers.errors"),
    "ensemble.predict": ("trainers.data.sources", "trainers.prediction", "trainers.errors", "trainers.pictures"),
    "tracking.models": ("trainers.prediction",),
}
"""What each room may see of trainers, beside trainers.config."""

OUTSIDE = {
    "optuna": ("orchestrator.search",),
    "mlflow": ("orchestrator.tracking",),
    "sqlalchemy": ("orchestrator.state.ledger",),
    "ray": ("orchestrator.launchers.ray",),
    "pynvml": ("orchestrator.launchers.slots.driver",),
    "apscheduler": ("orchestrator.operations.schedule.clock",),
    "apprise": ("orchestrator.dispatch.notifications",),
    "numba": ("orchestrator.ensemble.selection.kernel",),
    "llvmlite": ("orchestrator.ensemble.selection.kernel",),
    "scipy": ("orchestrator.ensemble.evaluation", "trainers.data.quality.duplicates"),
    "albumentations": ("trainers.loader.transforms", "orchestrator.launchers.worker.preload"),
    "segmentation_models_pytorch": ("trainers.models", "trainers.losses", "orchestrator.launchers.worker.preload"),
}
"""Outside system -> the modules that import it."""


def _name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def list_modules() -> dict[str, Path]:
    """Full name -> file, of both packages."""
    return {_name_of(path): path for package in ("orchestrator", "trainers") for path in (ROOT / package).rglob("*.py")}


@cache
def imports_of(module: str) -> frozenset[str]:
    """Every module that ``module`` imports anywhere, inside functions too, by its full name."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(list_modules()[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: relative import; write the full name"
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in list_modules() else str(node.module) for name in names}
    return frozenset(found - {module})


def is_within(module: str, package: str) -> bool:
    """Whether ``module`` is the package or something inside it."""
    return module == package or module.startswith(package + ".")


def find_strangers(room: str, allowed: Iterable[str]) -> list[str]:
    """Imports of ours that a module of ``room`` must not have, as ``importer -> imported``."""
    allowed = tuple(f"orchestrator.{name}".rstrip(".") for name in allowed)
    return [
        f"{module} -> {name}"
        for module in list_modules()
        if is_within(module, f"orchestrator.{room}")
        for name in imports_of(module)
        if is_within(name, "orchestrator") and not any(is_within(name, package) for package in allowed)
    ]


def find_cycle(arrows: Mapping[str, set[str]]) -> list[str]:
    """The nodes of a cycle, in order; empty where there is none."""
    done: set[str] = set()

    def follow(node: str, path: list[str]) -> list[str]:
        if node in path:
            return path[path.index(node) :]
        if node in done:
            return []
        for next_node in sorted(arrows.get(node, ())):
            if cycle := follow(next_node, [*path, node]):
                return cycle
        done.add(node)
        return []

    return next((cycle for node in sorted(arrows) if (cycle := follow(node, []))), [])


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_the_rooms_below_it(room: str) -> None:
    """By the table in orchestrator/README.md."""
    assert find_strangers(room, (room, *ROOMS[room])) == []


@pytest.mark.parametrize("part", NARROWER)
def test_a_part_of_a_room_may_import_less_than_the_room(part: str) -> None:
    """The dispatcher's loop is handed its search, launcher and tracker; a worker knows no slots; a reader never writes."""
    assert find_strangers(part, NARROWER[part]) == []


def test_every_first_level_entry_is_a_room() -> None:
    """Nothing lies beside the eleven packages and the error tree."""
    found = {path.stem for path in (ROOT / "orchestrator").iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert found - {"__init__"} == set(ROOMS)


@pytest.mark.parametrize("package", ["orchestrator", "trainers"])
def test_imports_of_files_form_no_cycle(package: str) -> None:
    """Imports inside functions included."""
    modules = [module for module in list_modules() if is_within(module, package)]
    assert find_cycle({module: set(imports_of(module)) & set(list_modules()) for module in modules}) == []


def test_imports_of_packages_form_no_cycle() -> None:
    """Of what lies side by side in any package, files and sub-packages alike."""
    for parent in sorted({module.rpartition(".")[0] for module in list_modules()} - {""}):
        depth = parent.count(".") + 2
        arrows: dict[str, set[str]] = defaultdict(set)
        for module in list_modules():
            for name in imports_of(module):
                if name != parent and module != parent and is_within(module, parent) and is_within(name, parent):
                    start, end = (".".join(full.split(".")[:depth]) for full in (module, name))
                    arrows[start] |= {end} - {start}
        assert find_cycle(arrows) == [], f"within {parent}"


def test_no_package_is_crowded() -> None:
    """At most nine modules; what is larger has sub-packages."""
    for folder in {path.parent for path in list_modules().values()}:
        modules = [path.name for path in folder.glob("*.py") if path.name != "__init__.py"]
        assert len(modules) <= 9, f"{folder.relative_to(ROOT)}: {sorted(modules)}"


def test_a_package_lists_its_modules() -> None:
    """In its docstring, so that a newcomer sees what is in it; what is listed exists."""
    for package, file in list_modules().items():
        if file.name == "__init__.py" and package != "orchestrator":  # whose map is its README
            docstring = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
            listed = re.findall(r"^(\w+)(?:\.py|/) ", docstring, re.MULTILINE)
            inside = [name for name in list_modules() if name.startswith(f"{package}.")]
            assert sorted(listed) == sorted({name.removeprefix(f"{package}.").partition(".")[0] for name in inside}), package


def test_a_cycle_is_found() -> None:
    """At any distance; arrows that end nowhere or meet again are none."""
    assert find_cycle({"a": {"b"}, "b": {"c"}, "c": {"a"}}) == ["a", "b", "c"]
    assert find_cycle({"a": {"b", "c"}, "b": {"d"}, "c": {"d"}}) == []


@pytest.mark.parametrize("package", ["trainers.config", "trainers.data"])
def test_configuration_and_data_import_no_torch(package: str) -> None:
    """The command line reads sweep files and prepares data without it."""
    modules = [module for module in list_modules() if is_within(module, package)]
    assert [module for module in modules if any(is_within(name, "torch") for name in imports_of(module))] == []


def test_trainers_know_nothing_of_the_orchestrator() -> None:
    """Trainers is a library that can be used by itself."""
    found = [module for module in list_modules() if is_within(module, "trainers")]
    assert [module for module in found if any(is_within(name, "orchestrator") for name in imports_of(module))] == []


def test_the_orchestrator_sees_the_trainers_only_where_it_may() -> None:
    """Configuration everywhere, data in planning, training in the worker, the figure of merit in statistics."""
    for module in list_modules():
        if is_within(module, "orchestrator"):
            allowed = {name for room, seen in TRAINERS.items() if is_within(module, f"orchestrator.{room}") for name in seen}
            seen = {name for name in imports_of(module) if is_within(name, "trainers") and not is_within(name, "trainers.config")}
            seen -= {"trainers"}  # for its path and version; the package itself holds no code
            assert [name for name in sorted(seen) if not name.startswith(tuple(allowed))] == [], module


@pytest.mark.parametrize("system", OUTSIDE)
def test_an_outside_system_is_imported_in_one_place(system: str) -> None:
    """So that another version, or another system, changes one place."""
    importers = [module for module in list_modules() if any(is_within(name, system) for name in imports_of(module))]
    assert importers, "nobody imports it any more"
    assert [module for module in importers if not any(is_within(module, place) for place in OUTSIDE[system])] == []


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
    heavy = [
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
    ]
    assert [name for name in heavy if f"'{name}'" in loaded] == []
