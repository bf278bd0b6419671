"""The five parts of gpu.py, each in its own process.

python benchmarks/gpu_parts.py PART SETTINGS.json RESULT.json

Results are written after every measurement, so that a part that is killed keeps what it has measured.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from gpu_settings import Results, Settings

from orchestrator.state.home import Home
from orchestrator.state.trial.folder import TrialFolder

ROOT = Path(__file__).resolve().parents[1]

STOPPING_S = 25.0
"""What a sweep gets at the end of its time to stop and to print what it has done."""


def run_tests(settings: Settings, results: Results) -> None:
    """``pytest -m gpu``, on the files that have such tests: a GPU host need not have what the other tests import."""
    files = [str(file) for file in sorted((ROOT / "tests").rglob("test_*.py")) if "pytest.mark.gpu" in file.read_text()]
    report = Path(settings.scratch) / "junit.xml"
    options = ["-m", "gpu", "-v", "-p", "no:cacheprovider", "-W", "default", "--timeout=60", f"--junitxml={report}"]
    done = subprocess.run([sys.executable, "-m", "pytest", *options, *files], cwd=ROOT, check=False)
    suite = next(ET.parse(report).getroot().iter("testsuite"))
    counts = {name: int(suite.get(name, "0")) for name in ("tests", "failures", "errors", "skipped")}
    results.add("counts", counts | {"passed": counts["tests"] - sum(counts[name] for name in ("failures", "errors", "skipped"))})
    failed = [case for case in suite.iter("testcase") if case.find("failure") is not None or case.find("error") is not None]
    results.add("failed", [f"{case.get('classname')}::{case.get('name')}" for case in failed])
    if done.returncode:
        raise RuntimeError(f"pytest ended with {done.returncode}")


def run_table1(settings: Settings, results: Results) -> None:
    """The whole of sweeps/table1.yaml; if its time is up, the sweep is stopped and the rows show how far it came."""
    options = [f"data.source={settings.source}", f"base.epochs={settings.epochs}", *settings.sweep_options]
    home = Home(Path(settings.scratch) / "table1")
    home.root.mkdir()
    command = [sys.executable, "-m", "orchestrator.cli", "sweep", str(ROOT / "sweeps" / "table1.yaml"), "--json"]
    command += [word for option in options for word in ("--set", option)]
    environment = os.environ | {"ORCHESTRATE_HOME": str(home.root)}
    document_file = Path(settings.scratch) / "table1.json"
    started_s = time.monotonic()
    with open(document_file, "wb") as file:
        sweep = subprocess.Popen(command, cwd=settings.scratch, env=environment, stdout=file)
        try:
            code = sweep.wait(max(5.0, settings.left_s - STOPPING_S))
        except subprocess.TimeoutExpired:
            sweep.send_signal(signal.SIGINT)
            code = sweep.wait(STOPPING_S)
    wall_s = time.monotonic() - started_s
    document = json.loads(document_file.read_text())
    rows = [_describe_row(home, trial) for trial in document["trials"]]
    rows += [{"row": e["name"], "state": e["state"], "miou": e["miou"]} for e in document["ensembles"]]
    busy_s = sum(row.get("attempts_s") or 0 for row in rows)
    states = Counter(row["state"] for row in rows)
    facts = {"wall_s": wall_s, "exit_code": code, "epochs": settings.epochs, "options": options, "states": states}
    results.add("sweep", facts | {"trials_at_once": busy_s / wall_s})
    results.add("rows", rows)
    if set(states) != {"COMPLETE"}:
        raise RuntimeError(f"not all of the {len(rows)} rows are complete: {states}")


def _describe_row(home: Home, trial: Mapping[str, Any]) -> dict[str, Any]:
    result = TrialFolder(home.trial_folder(trial["key"])).result()
    facts = result.facts if result else {}
    return {
        "row": trial["name"],
        "state": trial["state"],
        "miou": trial["metrics"].get("val/miou"),
        "reason": trial["reason"],
        **{name: facts.get(name) for name in ("attempts_s", "images_per_s", "peak_memory_mb")},
    }


def find_part(name: str) -> Callable[[Settings, Results], None]:
    """The part's function; imported only now, so that a library that one part lacks stops no other."""
    module, function = PARTS[name]
    found: Callable[[Settings, Results], None] = getattr(importlib.import_module(module), function)
    return found


PARTS: Mapping[str, tuple[str, str]] = {
    "tests": (__name__, "run_tests"),
    "single": ("gpu_single", "run_single"),
    "packing": ("gpu_packing", "run_packing"),
    "table1": (__name__, "run_table1"),
    "crops": ("gpu_single", "run_crops"),
}
"""Part -> module and function."""


def misbehave(fault: str) -> None:
    """Fail, or hang as a process that ignores SIGTERM and has a child."""
    if fault == "raise":
        raise RuntimeError("this part fails on purpose")
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(3600)"])
    print(f"this part hangs on purpose, with process {child.pid}", flush=True)
    child.wait()


def main() -> None:
    name, settings_file, result_file = sys.argv[1:]
    settings = Settings.read(Path(settings_file))
    if settings.fault is not None:
        misbehave(settings.fault)
    find_part(name)(settings, Results(Path(result_file)))


if __name__ == "__main__":
    main()
