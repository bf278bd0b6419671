"""Seconds of `orchestrate leaderboard`, first and repeated calls, and of MLflow's page, on a server with many runs.

    PYTHONPATH=. python benchmarks/many_runs.py [NUM_RUNS]

Starts its own PostgreSQL and MLflow server on this machine. Writes the runs into the database as MLflow would: two seeds per
configuration, each run with 12 metrics over 10 epochs, 20 params and 10 tags. Puts the two small files of each run that a
ranking needs into the cache, as an earlier ranking would.

2026-11-22, 5,000 runs, AMD EPYC, two cores: first call 29.6 s, second 2.6 s, third 2.4 s, after 50 more runs 6.0 s, as a table
2.5 s. MLflow's page 0.2 s; all runs by `runs/search` 11.6 s. Earlier that day, with mlflow imported (4.8 s): second call 7.9 s.
"""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import psycopg

from orchestrator.state.trial.outputs import write_confusions
from orchestrator.state.trial.records import TrialSpec
from tests.orchestrator.postgresql import PostgreSQL, find_programs
from trainers.config import DataConfig, TrainConfig

NUM_EPOCHS, NUM_METRICS, NUM_PARAMS = 10, 12, 20
NUM_IMAGES, NUM_CLASSES = 250, 5
SWEEP = "many"
API = "/api/2.0/mlflow/"
COMMAND = [sys.executable, "-m", "orchestrator.cli", "leaderboard"]


def main() -> None:
    num_runs = int(sys.argv[1]) if len(sys.argv) > 1 else 5000
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        (Path(folder) / "postgres").mkdir()
        database = PostgreSQL(Path(folder) / "postgres", find_programs())
        url = database.create()
        uri, server = start_server(url, Path(folder))
        try:
            measure(num_runs, url, uri, Path(folder))
        finally:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()
            database.stop(signal.SIGINT)


def measure(num_runs: int, url: str, uri: str, folder: Path) -> None:
    home = folder / "mlruns"
    tags = [{"key": "orchestrate", "value": "sweep"}]
    experiment = ask(uri, "experiments/create", {"name": SWEEP, "tags": tags})["experiment_id"]
    fill(url, experiment, num_runs, home)
    environment = os.environ | {"MLFLOW_TRACKING_URI": uri, "ORCHESTRATE_HOME": str(home)}
    environment.pop("ORCHESTRATE_STORAGE", None)
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # as installed: modules are compiled once
    print(f"{num_runs} runs in one sweep, PostgreSQL and MLflow on this machine, {os.cpu_count()} cores")
    for which in ("first", "second", "third"):
        took_s, ranked = time_leaderboard(environment)
        print(f"leaderboard, {which} call: {took_s:.1f} s ({ranked} ranked)", flush=True)
    fill(url, experiment, 50, home, is_now=True)
    took_s, ranked = time_leaderboard(environment)
    print(f"leaderboard after 50 more: {took_s:.1f} s ({ranked} ranked)")
    began_s = time.perf_counter()
    subprocess.run([*COMMAND, SWEEP], env=environment, stdout=subprocess.DEVNULL, check=True)
    print(f"leaderboard as a table: {time.perf_counter() - began_s:.1f} s")
    page = {"experiment_ids": [experiment], "max_results": 100, "order_by": ["metrics.`val/miou` DESC"]}
    for which in ("first", "second"):
        began_s = time.perf_counter()
        found = ask(uri, "runs/search", page)
        print(
            f"MLflow's page, search for the best 100, {which} time: {time.perf_counter() - began_s:.2f} s ({len(found['runs'])})"
        )
    began_s = time.perf_counter()
    token, num_found = None, 0
    while True:
        found = ask(
            uri, "runs/search", {"experiment_ids": [experiment], "max_results": 1000} | ({"page_token": token} if token else {})
        )
        num_found += len(found["runs"])
        if not (token := found.get("next_page_token")):
            break
    print(f"all {num_found} runs by `runs/search`, as without an index: {time.perf_counter() - began_s:.1f} s")


def time_leaderboard(environment: dict[str, str]) -> tuple[float, int]:
    """Return the seconds of the whole command and the number of ranked trials."""
    began_s = time.perf_counter()
    done = subprocess.run([*COMMAND, SWEEP, "--json"], env=environment, capture_output=True, text=True, check=False)
    took_s = time.perf_counter() - began_s
    assert done.returncode == 0, done.stderr
    return took_s, sum(row["rank"] is not None for row in json.loads(done.stdout))


def fill(url: str, experiment: str, num_runs: int, home: Path, *, is_now: bool = False) -> None:
    """Write runs of the last three weeks, or of this minute."""
    rng, numbers = random.Random(num_runs), np.random.default_rng(num_runs)
    rows: dict[str, list[tuple[Any, ...]]] = {"runs": [], "params": [], "tags": [], "metrics": [], "latest_metrics": []}
    for number in range(num_runs):
        run_id, end_s = uuid.uuid4().hex, time.time() - (0 if is_now else rng.uniform(3600, 21 * 86400))
        spec = make_spec(rng, f"{num_runs} {number // 2}", seed=number % 2)
        add_run(rows, run_id, spec, experiment=experiment, end_s=end_s, quality=rng.gauss(0.5, 0.05))
        write_files(home / "cache" / "files" / run_id, spec, numbers, end_s=end_s)
    columns = {
        "runs": "run_uuid, name, source_type, user_id, status, start_time, end_time, lifecycle_stage, artifact_uri, "
        "experiment_id",
        "params": "run_uuid, key, value",
        "tags": "run_uuid, key, value",
        "metrics": "run_uuid, key, value, timestamp, step, is_nan",
        "latest_metrics": "run_uuid, key, value, timestamp, step, is_nan",
    }
    with psycopg.connect(url) as connection:
        for table, names in columns.items():
            with connection.cursor().copy(f"COPY {table} ({names}) FROM STDIN") as copy:
                for row in rows[table]:
                    copy.write_row(row)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("ANALYZE")


def make_spec(rng: random.Random, configuration: str, *, seed: int) -> TrialSpec:
    key = f"{rng.getrandbits(64):016x}"
    return TrialSpec(
        key=key, configuration=configuration, name=f"{configuration} seed {seed}", train=TrainConfig(),
        data=DataConfig(ignore_classes=(0,)), seed=seed, source_fingerprint="f" * 16,
    )  # fmt: skip


def add_run(
    rows: dict[str, list[tuple[Any, ...]]], run_id: str, spec: TrialSpec, *, experiment: str, end_s: float, quality: float
) -> None:
    end_ms = round(end_s * 1000)
    uri = f"mlflow-artifacts:/{experiment}/{run_id}/artifacts"
    rows["runs"].append((run_id, spec.name, "LOCAL", "me", "FINISHED", end_ms - 600_000, end_ms, "active", uri, int(experiment)))
    rows["params"] += [(run_id, f"param_{number}", f"value {number}") for number in range(NUM_PARAMS)]
    tags = {
        "kind": "trial", "current": "true", "state": "COMPLETE", "sweep": SWEEP, "key": spec.key, "seed": str(spec.seed),
        "attempt": "1",
        "configuration": spec.configuration, "scored_fingerprint": "s" * 16,
        "written": time.strftime("%Y-%m-%dT%H:%M", time.gmtime(end_s)),
    }  # fmt: skip
    rows["tags"] += [(run_id, key, value) for key, value in tags.items()]
    names = ["val/miou", *(f"metric_{number}" for number in range(1, NUM_METRICS))]
    for name in names:
        history = [(run_id, name, quality * epoch / NUM_EPOCHS, end_ms, epoch, False) for epoch in range(1, NUM_EPOCHS + 1)]
        rows["metrics"] += history
        rows["latest_metrics"].append(history[-1])


def write_files(folder: Path, spec: TrialSpec, numbers: np.random.Generator, *, end_s: float) -> None:
    folder.mkdir(parents=True)
    (folder / "ended").write_text(str(round(end_s * 1000)))
    (folder / "trial.json").write_text(spec.model_dump_json())
    confusions = numbers.integers(0, 500, (NUM_IMAGES, NUM_CLASSES, NUM_CLASSES))
    write_confusions(folder / "confusions.npz", confusions, ignore_classes=(0,))


def start_server(url: str, folder: Path) -> tuple[str, subprocess.Popen[bytes]]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "2"]
    settings = {
        "MLFLOW_BACKEND_STORE_URI": url,
        "MLFLOW_ARTIFACTS_DESTINATION": str(folder / "artifacts"),
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }
    with open(folder / "server.log", "wb") as log:
        server = subprocess.Popen(command, env=os.environ | settings, stdout=log, stderr=log, start_new_session=True)
    uri, deadline_s = f"http://127.0.0.1:{port}", time.monotonic() + 120
    while True:
        try:
            ask(uri, "experiments/search", {"max_results": 1})
            return uri, server
        except OSError:
            assert time.monotonic() < deadline_s, (folder / "server.log").read_text()
            time.sleep(0.3)


def ask(uri: str, path: str, body: dict[str, Any]) -> Any:
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(uri + API + path, data=json.dumps(body).encode(), headers=headers)
    with urllib.request.urlopen(request, timeout=120) as answer:
        return json.load(answer)


if __name__ == "__main__":
    main()
