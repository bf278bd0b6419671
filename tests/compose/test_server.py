"""The team's server from nothing: who is let in, what kills cost, backups, workers that share no file system. In this order."""

from __future__ import annotations

import json
import os
import signal
import time
import urllib.request
from collections import Counter
from pathlib import Path

import pytest

from tests.compose.stack import PUBLIC_HOST, ROOT, Stack, find_compose, run
from tests.compose.sweep import NUM_EPOCHS, attempts, leaderboard, list_runs, num_complete, wait_until, write_sweep

pytestmark = [pytest.mark.docker, pytest.mark.timeout(900)]


def names_trained(log: str) -> set[str]:
    """The trials of which a dispatcher has told epochs of its own; ends are told of everybody's."""
    return {line.partition("running ")[2].partition("  epoch ")[0].strip() for line in log.splitlines() if "  epoch " in line}


def test_the_examples_passwords_are_refused(images: dict[str, str]) -> None:
    """Nothing is started with them, and it is said which they are."""
    project = f"orchestrate-test-example-{os.getpid()}"
    command = (*find_compose(), "--env-file", str(ROOT / ".env.example"), "--project-name", project)
    try:
        done = run(*command, "up", "--detach", check=False, env=os.environ | images)
        assert done.returncode != 0
        log = run(*command, "logs", "settings", env=os.environ | images).stdout
        assert "MLFLOW_TEAM_PASSWORD is still the example's" in log
        assert run(*command, "ps", "--quiet", "mlflow", env=os.environ | images).stdout.strip() == ""
    finally:
        run(*command, "down", "--volumes", env=os.environ | images)


def test_only_the_team_is_let_in(stack: Stack) -> None:
    """With its password, under the names that are allowed; doctor finds nothing wrong."""
    password = stack.passwords["MLFLOW_TEAM_PASSWORD"]
    assert stack.ask() == 401
    assert stack.ask(password="mistaken") == 401
    assert stack.ask(password=password) == 200
    assert stack.ask(password=password, host=f"{PUBLIC_HOST}:5000") == 200
    assert stack.ask(password=password, host="elsewhere.example.org") == 403
    found = json.loads(stack.orchestrate("doctor", "--json", check=False).stdout)["findings"]
    assert [finding for finding in found if finding["level"] == "error"] == []
    assert {"ledger", "tracking", "login", "files"} <= {finding["subject"] for finding in found}


def test_the_health_check_fails_when_clients_fail(stack: Stack) -> None:
    """A server whose database is away answers /health as ever, and is not healthy."""
    database = stack.container("database")
    run("docker", "pause", database)
    try:
        assert stack.ask(path="/health") == 200
        assert run("docker", "exec", stack.container("mlflow"), "python", "check.py", check=False).returncode == 1
    finally:
        run("docker", "unpause", database)
    stack.wait_until_healthy()


def test_kills_of_the_servers_cost_nothing(stack: Stack, folder: Path) -> None:
    """A sweep from here, joined by a container; MLflow crashes and its policy brings it back, the database is killed."""
    file = write_sweep(folder, "kills", lrs="[0.001, 0.002, 0.004]")
    sweep = stack.start("sweep", file, "--json")
    try:
        wait_until(lambda: any(folder.glob("mlruns/trials/*/progress.jsonl")) or sweep.poll() is not None)
        stack.compose("--profile", "worker-cpu", "up", "--detach", "--no-deps", "worker-cpu", SWEEP="kills")
        wait_until(lambda: num_complete(stack, "kills") >= 3)
        os.kill(int(stack.inspect("mlflow", "{{.State.Pid}}")), signal.SIGKILL)
        wait_until(lambda: num_complete(stack, "kills") >= 5)
        database = stack.container("database")
        run("docker", "kill", database)
        time.sleep(5)
        run("docker", "start", database)
        assert sweep.wait(timeout=400) == 0, (folder / "sweep.err").read_text()[-3000:]
    finally:
        sweep.kill()
        sweep.wait()
    states = Counter(trial["state"] for trial in json.loads((folder / "sweep.out").read_text())["trials"])
    assert states == {"COMPLETE": 12}
    assert attempts(stack, "kills") == {1: 12}
    worker = stack.container("worker-cpu")
    code, log = run("docker", "wait", worker).stdout.strip(), run("docker", "logs", worker).stderr
    assert code == "0", log
    assert "complete " in log
    stack.wait_until_healthy()
    assert stack.orchestrate("sync", "kills").returncode == 0
    assert Counter(list_runs(stack, "kills")) == {f"FINISHED/{NUM_EPOCHS}": 12}


def test_the_dashboard_shows_what_was_searched(stack: Stack) -> None:
    """Optuna's page, with a study of the sweep that has its trials."""
    stack.compose("--profile", "dashboard", "up", "--detach", "dashboard")
    address = f"http://127.0.0.1:{stack.ports['DASHBOARD_PORT']}"
    studies: list[dict[str, object]] = []

    def answers() -> bool:
        try:
            with urllib.request.urlopen(f"{address}/api/studies", timeout=10) as answer:
                studies.extend(json.load(answer)["study_summaries"])
        except OSError:
            return False
        return True

    wait_until(answers)
    (study,) = studies
    assert "kills" in str(study["study_name"])
    with urllib.request.urlopen(f"{address}/api/studies/{study['study_id']}?after=0", timeout=10) as answer:
        assert {trial["state"] for trial in json.load(answer)["trials"]} == {"Complete"}
    with urllib.request.urlopen(f"{address}/dashboard", timeout=10) as page:
        assert b"<html" in page.read().lower()


def test_a_backup_brings_everything_back(stack: Stack, folder: Path) -> None:
    """To a server from which everything was removed; one that has runs is left alone."""
    before, compose = leaderboard(stack, "kills"), " ".join(stack.command)
    backup = str(folder / "backup")
    run("make", "backup", f"BACKUP={backup}", f"COMPOSE={compose}")
    assert "would be lost" in run("make", "restore", f"BACKUP={backup}", f"COMPOSE={compose}", check=False).stderr
    stack.down()
    run("make", "restore", f"BACKUP={backup}", f"COMPOSE={compose}")
    stack.wait_until_healthy()
    assert leaderboard(stack, "kills") == before
    # files came back, too: a home that has never seen the sweep builds an ensemble out of its predictions
    best = stack.orchestrate("best-ensemble", "kills", "--k", "2", "--json", home=folder / "another home")
    assert len(json.loads(best.stdout)["members"]) in (1, 2)


def test_workers_that_share_nothing_finish_a_sweep(stack: Stack, folder: Path) -> None:
    """Two on networks of their own, which meet only in the two servers; the machine that began it has left."""
    sweep = stack.start("sweep", write_sweep(folder, "apart", lrs="[0.003, 0.005]"), "--json")
    wait_until(lambda: " running " in (folder / "sweep.err").read_text() or sweep.poll() is not None)
    sweep.send_signal(signal.SIGINT)
    assert sweep.wait(timeout=120) == 130, (folder / "sweep.err").read_text()[-3000:]
    login = folder / "login"
    login.write_text("".join(f"{k}={v}\n" for k, v in stack.login(database="database", mlflow="mlflow", is_inside=True).items()))
    networks, workers = [f"{stack.project}-{letter}" for letter in "ab"], []
    try:
        for network in networks:
            run("docker", "network", "create", network)
            for service in ("database", "mlflow"):
                run("docker", "network", "connect", "--alias", service, network, stack.container(service))
            command = ("docker", "run", "--detach", "--init", "--network", network, "--env-file", str(login))
            image = stack.values["WORKER_IMAGE"]
            workers.append(run(*command, image, "orchestrate", "worker", "apart").stdout.strip())
        codes = [run("docker", "wait", worker).stdout.strip() for worker in workers]
        logs = [run("docker", "logs", worker).stderr for worker in workers]
    finally:
        for worker in workers:
            run("docker", "rm", "--force", "--volumes", worker)
        for network in networks:
            for service in ("database", "mlflow"):
                run("docker", "network", "disconnect", "--force", network, stack.container(service), check=False)
            run("docker", "network", "rm", network)
    assert codes == ["0", "0"], logs
    first, second = (names_trained(log) for log in logs)
    assert first, logs
    assert second, logs
    assert not first & second
    assert num_complete(stack, "apart") == 8
    assert max(attempts(stack, "apart")) <= 2  # of what the first machine gave back
    assert {
        trial["state"] for trial in json.loads(stack.orchestrate("sweep", str(folder / "apart.yaml"), "--json").stdout)["trials"]
    } == {"CACHED"}


def test_no_password_is_told_anywhere(stack: Stack, folder: Path) -> None:
    """Neither in what the servers and workers log, nor in what commands print and write, nor in what MLflow shows of runs."""
    texts = {
        "logs": stack.compose("logs").stdout,
        "database": stack.compose("exec", "-T", "database", "pg_dump", "-U", "postgres", "mlflow").stdout,
    }
    texts |= {"ledger": stack.compose("exec", "-T", "database", "pg_dump", "-U", "postgres", "orchestrate").stdout}
    for name in ("sweep.out", "sweep.err"):
        texts[name] = (folder / name).read_text()
    for path in (folder / "mlruns").rglob("*"):
        if path.is_file():
            texts[str(path)] = path.read_bytes().decode("latin-1")
    told = [(name, where) for name, secret in stack.passwords.items() for where, text in texts.items() if secret in text]
    assert told == []
