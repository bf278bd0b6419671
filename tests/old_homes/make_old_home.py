"""Make old_home.tar.xz: a home written by commit dfd54e9, the last one before the packages were rearranged, with its own answers.

The archive beside this script was made by

    git worktree add /tmp/old dfd54e9 && make -C /tmp/old setup
    /tmp/old/.venv/bin/python tests/old_homes/make_old_home.py /tmp/old

which takes about two minutes. Everything in it comes from the command line of that checkout: sweeps, ensembles, an exported
model, and in ``expected/`` what its commands printed. test_old_homes.py reads it with the code under test.

Nothing needs to be made again. A later commit that changes what lies on disk gets an archive of its own; this one stays.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

COMMIT = "dfd54e9"
HERE = Path(__file__).resolve().parent
ARCHIVE = HERE / "old_home.tar.xz"
PLACE = Path("/tmp/old-home")  # MLflow stores absolute paths; test_old_homes.py replaces this one
HOME, PROJECT, EXPECTED = PLACE / "mlruns", PLACE / "project", PLACE / "expected"
NAP_S = 0.04  # per batch, while a sweep is to be caught in the middle
DEADLINE_S = 120.0
LEFT_OUT = ("person", "slots", "mlruns/cache")  # the cache may be deleted at any time, and is large
FOREIGN = (str(Path.home()), str(HERE.parents[1]))  # paths of the machine that must not be in the archive

COMMON = """\
data: {source: synthetic, synthetic: {num_images: 16, height: 16, width: 32}, val_fraction: 0.25, ignore_classes: [0]}
resources: {slots: 1, threads_per_slot: 1}
limits: {free_disk_gb: 0, checkpoint_s: 0}
"""
SWEEPS = {
    # a study of TPE with conditional parameters, seeds and a pruner
    "searched": """\
base: {arch: "small_net:Net", epochs: 10, batch_size: 2, precision: float32}
search:
  method: tpe
  seed: 1
  options: {n_startup_trials: 2}
  space:
    loss: [{name: focal}, {name: dice}]
    loss.gamma: {choices: [1, 2], when: {loss.name: focal}}
    optimizer.lr: {low: 3e-3, high: 1e-1, log: true}
pruner: {name: PercentilePruner, options: {percentile: 30.0, n_startup_trials: 1, n_warmup_steps: 3}}
seeds: [0, 1]
budget: {trials: 8}
""",
    # rows, one of which fails, and an ensemble of two of them
    "rows": """\
base: {arch: "small_net:Net", epochs: 20, batch_size: 2, precision: float32, optimizer: {name: adamw, lr: 0.02}}
rows:
  - {id: 1, label: focal, loss: {name: focal}}
  - {id: 2, label: dice, loss: {name: dice}, reported: 0.5}
  - {id: 3, label: wide, loss: {name: cross_entropy}, arch_options: {width: 8}}
  - {id: 4, label: broken, loss: {name: "small_net:Raising"}}
ensembles: [{id: 5, label: both, members: [1, 2]}]
keep: {checkpoints: all, flips: horizontal}
""",
    # a row of the sweep above, reused, and one whose predictions are kept in 16 bits too
    "reusing": """\
base: {arch: "small_net:Net", epochs: 20, batch_size: 2, precision: float32, optimizer: {name: adamw, lr: 0.02}}
rows: [{id: same, loss: {name: dice}}, {id: other, loss: {name: jaccard}}]
""",
    "folded": """\
base: {arch: "small_net:Net", epochs: 12, batch_size: 2, precision: float32, optimizer: {name: adamw, lr: 0.02}}
search: {method: grid, space: {loss: [{name: focal}, {name: dice}]}}
folds: 2
""",
    # killed in the middle, with its dispatcher
    "killed": """\
base: {arch: "small_net:Net", epochs: 12, batch_size: 2, precision: float32, optimizer: {name: adamw, lr: 0.01}}
rows: [{id: 1, loss: {name: dice}}]
""",
}


def main() -> None:
    """Run the sweeps, note what the commands answer, and pack it all."""
    checkout = Path(sys.argv[1]).resolve()
    found = subprocess.run(["git", "-C", checkout, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout
    if not found.startswith(COMMIT):
        sys.exit(f"{checkout}: is at {found.strip()}, expected {COMMIT}")
    shutil.rmtree(PLACE, ignore_errors=True)
    for folder in (PROJECT, EXPECTED):
        folder.mkdir(parents=True)
    shutil.copy(HERE / "small_net.py", PROJECT)
    for name, text in SWEEPS.items():
        (PROJECT / f"{name}.yaml").write_text(f"name: {name}\n{COMMON}{text}", encoding="utf-8")
    old = OldCode(checkout)
    run_sweeps(old)
    ask(old)
    interrupt(old)
    print(f"{ARCHIVE}: {pack() / 1000:.0f} kB")


class OldCode:
    """The commands of the old checkout, as somebody runs them who works in PROJECT."""

    def __init__(self, checkout: Path) -> None:
        self._environment = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(checkout),
            "HOME": str(PLACE / "person"),
            "LOGNAME": "person",
            "CUDA_VISIBLE_DEVICES": "",
            "ORCHESTRATE_HOME": str(HOME),
            "ORCHESTRATE_SLOTS": str(PLACE / "slots"),
        }

    def run(self, *arguments: str, code: int = 0, **variables: str) -> Any:
        """Run a command with --json; returns its document."""
        done = subprocess.run(
            self._command(arguments),
            cwd=PROJECT,
            env=self._environment | variables,
            stdout=subprocess.PIPE,
            text=True,
            check=False,
        )
        if done.returncode != code:
            sys.exit(f"{arguments}: exit code {done.returncode}")
        return json.loads(done.stdout)

    def end(self, number: signal.Signals, when: Callable[[], bool], *arguments: str, **variables: str) -> int:
        """Start a command and send it a signal as soon as ``when``; returns its exit code."""
        process = subprocess.Popen(
            self._command(arguments),
            cwd=PROJECT,
            env=self._environment | variables,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )
        deadline_s = time.monotonic() + DEADLINE_S
        while not when():
            if process.poll() is not None or time.monotonic() > deadline_s:
                sys.exit(f"{arguments}: not caught in the middle")
            time.sleep(0.01)
        if number == signal.SIGKILL:
            os.killpg(process.pid, number)
        else:
            process.send_signal(number)
        return process.wait()

    @staticmethod
    def _command(arguments: tuple[str, ...]) -> list[str]:
        return [sys.executable, "-m", "orchestrator.cli", *arguments, "--json"]


def run_sweeps(old: OldCode) -> None:
    """Run them to their end. 16-bit predictions are asked for on the command line: later versions need not know the key."""
    nap = {"NAP_S": str(NAP_S)}  # the dispatcher must see an epoch before the trial has ended
    searched = old.run("sweep", "searched.yaml", **nap)
    states = [trial["state"] for trial in searched["trials"]]
    if not {"COMPLETE", "PRUNED"} <= set(states):
        sys.exit(f"searched: {states}, expected a pruned trial too. Try another seed.")
    old.run("sweep", "rows.yaml", code=1)
    old.run("sweep", "reusing.yaml", "--set", "keep.predictions=u16")
    old.run("sweep", "folded.yaml")


def ask(old: OldCode) -> None:
    """Note what the old code answers about what has ended."""
    import numpy as np

    images = np.random.default_rng(0).integers(0, 256, (3, 16, 32), dtype=np.uint8)
    np.savez_compressed(PROJECT / "images.npz", test_set=images)
    note("best-ensemble-rows", best := old.run("best-ensemble", "rows", "--k", "2", "--exactly"))
    note("best-ensemble-folded", old.run("best-ensemble", "folded", "--k", "2"))
    for sweep in ("searched", "rows", "reusing", "folded"):
        note(f"leaderboard-{sweep}", old.run("leaderboard", sweep))
    note("compare", old.run("compare", "1: focal", "3: wide", "--sweep", "rows"))
    note("report", old.run("report", "rows"))
    run_id = old.run("leaderboard", "rows")[0]["run_id"]
    old.run("predict", run_id, "images.npz", "--out", str(EXPECTED / "best-run.npz"))
    old.run("predict", str(best["run_id"]), "images.npz", "--out", str(EXPECTED / "ensemble.npz"))
    old.run("export", str(best["run_id"]), "--out", str(PLACE / "model"))
    note("export", old.run("export", str(best["run_id"])))


def interrupt(old: OldCode) -> None:
    """Leave a trial of the study to be resumed after Ctrl-C, and one after kill -9; then note how all sweeps stand."""
    nap, before = {"NAP_S": str(NAP_S)}, set(HOME.glob("trials/*"))
    code = old.end(signal.SIGINT, lambda: has_trained(before), "sweep", "searched.yaml", "--set", "budget.trials=12", **nap)
    if code != 130:
        sys.exit(f"searched: exit code {code} after Ctrl-C")
    stopped = set(HOME.glob("trials/*")) - before
    before |= stopped
    old.end(signal.SIGKILL, lambda: has_trained(before), "sweep", "killed.yaml", **nap)
    killed = set(HOME.glob("trials/*")) - before
    for folder in stopped | killed:
        if (folder / "result.json").exists() or not (folder / "last.pt").exists():
            sys.exit(f"{folder}: not caught in the middle")
    note("interrupted", {"searched": [path.name for path in stopped], "killed": [path.name for path in killed]})
    note("status", old.run("status", *SWEEPS))


def has_trained(before: set[Path]) -> bool:
    """Whether a trial that is not among those before has trained two epochs, and left a checkpoint."""
    for folder in set(HOME.glob("trials/*")) - before:
        progress = folder / "progress.jsonl"
        if (folder / "last.pt").exists() and progress.exists() and progress.read_bytes().count(b'"kind":"epoch"') >= 2:
            return True
    return False


def note(name: str, document: Mapping[str, Any] | list[Any]) -> None:
    """Keep an answer of the old code."""
    (EXPECTED / f"{name}.json").write_text(json.dumps(document, indent=1), encoding="utf-8")


def pack() -> int:
    """Pack the home, databases as SQL (a third of their size); returns the archive's size in bytes.

    Checkpoints and mirrored files are known by their modification times in nanoseconds, which tar rounds: see ``mtimes.json``.
    """
    for name in LEFT_OUT:
        shutil.rmtree(PLACE / name, ignore_errors=True)
    for cache in PLACE.rglob("__pycache__"):
        shutil.rmtree(cache)
    for database in HOME.glob("*.db"):
        with contextlib.closing(sqlite3.connect(database)) as connection:
            database.with_suffix(".sql").write_text("\n".join(connection.iterdump()), encoding="utf-8")
        for path in HOME.glob(f"{database.name}*"):
            path.unlink()
    files = sorted(path for path in PLACE.rglob("*") if path.is_file())
    for path in files:
        for word in FOREIGN:
            if word.encode() in path.read_bytes():
                sys.exit(f"{path}: holds a path of this machine, {word}")
    mtimes = {path.relative_to(PLACE).as_posix(): path.stat().st_mtime_ns for path in files}
    (PLACE / "mtimes.json").write_text(json.dumps(mtimes, indent=1), encoding="utf-8")
    with tarfile.open(ARCHIVE, "w:xz", preset=9) as archive:
        for path in [PLACE / "mtimes.json", *files]:
            archive.add(path, path.relative_to(PLACE).as_posix(), filter=anonymize)
    return ARCHIVE.stat().st_size


def anonymize(info: tarfile.TarInfo) -> tarfile.TarInfo:
    """Leave out who made the file."""
    info.uid = info.gid = 0
    info.uname = info.gname = ""
    return info


if __name__ == "__main__":
    main()
