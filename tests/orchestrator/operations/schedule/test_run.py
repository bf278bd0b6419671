"""`orchestrate schedule` as a process, with sweeps that are due at once: killed, stopped, started again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest

from orchestrator.operations.schedule.record import ScheduleRecord, WatchedSweep

EVERY_MINUTE = "* * * * *"

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


def environment(folder: Path) -> dict[str, str]:
    """A user's environment, with separate slots."""
    clean = {k: v for k, v in os.environ.items() if k not in ("MLFLOW_TRACKING_URI", "ORCHESTRATE_STORAGE", "ORCHESTRATE_HOME")}
    return clean | {"ORCHESTRATE_SLOTS": str(folder / "slots")}


def command(*arguments: str) -> list[str]:
    """An `orchestrate` command."""
    return [sys.executable, "-m", "orchestrator.cli", *arguments]


def let_be_due(folder: Path, name: str) -> None:
    """Write what a scheduler that watched the file until two minutes ago would have left: one occurrence was missed since."""
    since = datetime.now(UTC) - timedelta(minutes=2)
    watch = WatchedSweep(file=str(folder / f"{name}.yaml"), cron=EVERY_MINUTE, timezone=None, since=since)
    ScheduleRecord(folder / "mlruns" / "schedule").watch({name: watch})


@contextmanager
def scheduler(folder: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A running scheduler, killed at the end of the test."""
    process = subprocess.Popen(
        command("schedule", *arguments), cwd=folder, env=environment(folder), stderr=subprocess.PIPE, text=True
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def wait_for(what: Callable[[], Any], process: subprocess.Popen[str]) -> Any:
    """Wait for a condition while the scheduler runs."""
    deadline_s = time.monotonic() + 120
    while not (found := what()):
        assert process.poll() is None, process.stderr.read() if process.stderr else ""
        assert time.monotonic() < deadline_s
        time.sleep(0.05)
    return found


def occurrences(folder: Path) -> list[dict[str, Any]]:
    """The record, as `--list --json` shows it."""
    done = subprocess.run(
        command("schedule", "--list", "--json"), cwd=folder, env=environment(folder), capture_output=True, text=True, check=True
    )
    return list(json.loads(done.stdout)["occurrences"])


def ended(folder: Path, name: str) -> Callable[[], bool]:
    """Whether an occurrence of the sweep has been run to its end."""
    record = ScheduleRecord(folder / "mlruns" / "schedule")
    return lambda: any(o.sweep == name and o.exit_code is not None for o in record.occurrences().values())


@pytest.mark.parametrize("options", [("--export", "systemd", "--json"), ("--export", "crontab", "--list"), ("--json",)])
def test_options_that_exclude_each_other_are_refused(tmp_path: Path, options: tuple[str, ...]) -> None:
    """Such as --json with --export, --list with --export, or --json for the scheduler itself."""
    done = subprocess.run(
        command("schedule", *options, "x.yaml"),
        cwd=tmp_path,
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert "leave" in done.stderr.lower()


def test_killed_and_stopped_it_resumes_the_same_occurrence(tmp_path: Path) -> None:
    """Kill -9 of the scheduler kills its sweep too; the next one resumes it, forwards SIGTERM and waits."""
    (tmp_path / "slow_losses.py").write_text(
        "import os\nimport pathlib\nimport time\n\npathlib.Path('started').write_text(str(os.getpid()))\ntime.sleep(600)\n"
    )
    (tmp_path / "nightly.yaml").write_text(
        f"data: {{synthetic: {{num_images: 16, height: 32, width: 64}}}}\nbase: {{loss: {{name: 'slow_losses:Slow'}}}}\n"
        f"schedule: '{EVERY_MINUTE}'\n"
    )
    let_be_due(tmp_path, "nightly")
    started = tmp_path / "started"

    def read_pid() -> int:
        return int(started.read_text() or 0) if started.exists() else 0

    with scheduler(tmp_path, "nightly.yaml") as first:
        sweep = psutil.Process(wait_for(read_pid, first))
        refused = subprocess.run(
            command("schedule", "nightly.yaml"),
            cwd=tmp_path,
            env=environment(tmp_path),
            capture_output=True,
            text=True,
            check=False,
        )
        assert refused.returncode == 2
        assert "another `orchestrate schedule` is running here" in refused.stderr
        first.kill()
        first.wait()
    psutil.wait_procs([sweep], timeout=10)
    assert not sweep.is_running()
    before = next(o for o in occurrences(tmp_path) if o["state"] == "running")

    started.unlink()
    with scheduler(tmp_path, "nightly.yaml") as second:
        sweep = psutil.Process(wait_for(read_pid, second))
        second.send_signal(signal.SIGTERM)
        _, said = second.communicate(timeout=60)
    assert second.returncode == 0, said
    assert f"{before['id']}: was running when the scheduler ended, and is resumed" in said
    assert not sweep.is_running()
    after = next(o for o in occurrences(tmp_path) if o["id"] == before["id"])
    assert (after["state"], after["exit_code"]) == ("suspended", 130)


TINY = f"""
data: {{source: synthetic, synthetic: {{num_images: 16, height: 32, width: 64}}, val_fraction: 0.25, ignore_classes: [0]}}
base: {{arch: FPN, encoder: resnet18, epochs: 1, batch_size: 6, precision: float32}}
schedule: {{cron: "{EVERY_MINUTE}", again: AGAIN}}
"""


@pytest.mark.long
def test_nothing_new_is_reported_and_again_trains_again(tmp_path: Path) -> None:
    """If all is done the record says so; with `again` the same training runs again, under the occurrence's id."""
    (tmp_path / "nightly.yaml").write_text(TINY.replace("AGAIN", "false"))
    (tmp_path / "anew.yaml").write_text(TINY.replace("AGAIN", "true"))
    sweep = command("sweep", "nightly.yaml", "--launcher", "inline", "--json")
    done = subprocess.run(sweep, cwd=tmp_path, env=environment(tmp_path), capture_output=True, text=True, check=True)
    (by_hand,) = json.loads(done.stdout)["trials"]

    for name in ("nightly", "anew"):
        let_be_due(tmp_path, name)
        with scheduler(tmp_path, f"{name}.yaml") as process:
            wait_for(ended(tmp_path, name), process)
    first = {found["sweep"]: found for found in reversed(occurrences(tmp_path))}
    assert (first["nightly"]["state"], first["nightly"]["trials"]) == ("nothing new", {"CACHED": 1})
    anew = first["anew"]
    assert (anew["state"], anew["trials"]) == ("done", {"COMPLETE": 1})
    (trial,) = json.loads((tmp_path / "mlruns" / "schedule" / f"{anew['id']}.json").read_text())["trials"]
    assert anew["id"] in trial["name"]
    assert trial["key"] != by_hand["key"]
