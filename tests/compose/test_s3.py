"""The team's server with its files in SeaweedFS, from nothing: who is let in, kills, backups. In this order."""

from __future__ import annotations

import json
import secrets
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.compose.stack import Stack, run
from tests.compose.sweep import NUM_EPOCHS, attempts, leaderboard, list_runs, num_complete, wait_until, write_sweep

pytestmark = [pytest.mark.docker, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def in_s3(images: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Up from nothing, as .env.example says."""
    own = {"ARTIFACTS_DESTINATION": "s3://mlflow", "S3_KEY": "mlflow", "S3_SECRET": secrets.token_hex(16)}
    stack = Stack(tmp_path_factory.mktemp("s3"), images, {"COMPOSE_PROFILES": "s3"} | own)
    try:
        stack.up()
        yield stack
    finally:
        stack.down()


def in_server(stack: Stack, program: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """A program of the server's container, run beside it."""
    options = [f"--env={name}={value}" for name, value in variables.items()]
    return run("docker", "exec", *options, stack.container("mlflow"), "python", "-c", program, check=False)


def list_files(stack: Stack) -> list[str]:
    """What the bucket holds."""
    return in_server(stack, "from bucket import Bucket; print(*Bucket().list_names(), sep='\\n')").stdout.split()


def test_nothing_starts_with_a_place_that_loses_files(images: dict[str, str], tmp_path: Path) -> None:
    """SeaweedFS without a key lets everybody in, and what is neither in S3 nor in the volume goes with the container."""
    stack, place = Stack(tmp_path, images), {"ARTIFACTS_DESTINATION": "s3://mlflow"}
    try:
        assert stack.compose("up", "--detach", check=False, COMPOSE_PROFILES="s3", S3_KEY="mlflow", **place).returncode != 0
        assert "S3_SECRET is empty" in stack.compose("logs", "settings").stdout
        assert run("docker", "ps", "--quiet", f"--filter=name={stack.project}").stdout == ""
        for settings, said in (
            (place | {"S3_SECRET": "x" * 32}, "S3_KEY is empty"),
            ({"COMPOSE_PROFILES": "dashboard,s3"}, "ARTIFACTS_DESTINATION is ''"),
            ({"ARTIFACTS_DESTINATION": "s3:/mlflow"}, "ARTIFACTS_DESTINATION is 's3:/mlflow'"),
        ):
            refused = stack.compose("run", "--rm", "-T", "settings", check=False, **settings)
            assert refused.returncode != 0
            assert said in refused.stdout + refused.stderr
    finally:
        stack.down()


def test_only_the_server_is_let_in(in_s3: Stack) -> None:
    """With its secret, and from its container: workers and the database cannot even reach SeaweedFS."""
    look = "from bucket import Bucket; print(len(list(Bucket().list_names())))"
    assert in_server(in_s3, look).stdout.strip().isdigit()
    assert "SignatureDoesNotMatch" in in_server(in_s3, look, AWS_SECRET_ACCESS_KEY="mistaken").stderr
    assert "InvalidAccessKeyId" in in_server(in_s3, look, AWS_ACCESS_KEY_ID="nobody").stderr
    unsigned = "import urllib.request; print(urllib.request.urlopen('http://s3:8333/mlflow').read())"
    assert "403" in in_server(in_s3, unsigned).stderr
    of_filer = "import socket; print(socket.create_connection(('s3', 8888), 5))"
    assert "ConnectionRefusedError" in in_server(in_s3, of_filer).stderr
    assert run("docker", "exec", in_s3.container("database"), "getent", "hosts", "s3", check=False).returncode != 0


def test_a_kill_in_mid_sweep_costs_nothing(in_s3: Stack) -> None:
    """Runs complete while SeaweedFS is away, all files come to lie in the bucket, and another home reads them there."""
    folder = in_s3.folder
    sweep = in_s3.start("sweep", write_sweep(folder, "kept", lrs="[0.002, 0.004]"), "--json")
    try:
        wait_until(lambda: any(folder.glob("mlruns/trials/*/progress.jsonl")) or sweep.poll() is not None)
        wait_until(lambda: num_complete(in_s3, "kept") >= 2 or sweep.poll() is not None)
        run("docker", "kill", in_s3.container("s3"))
        wait_until(lambda: num_complete(in_s3, "kept") >= 4 or sweep.poll() is not None)
        run("docker", "start", in_s3.container("s3"))
        assert sweep.wait(timeout=300) == 0, (folder / "sweep.err").read_text()[-3000:]
    finally:
        sweep.kill()
        sweep.wait()
    states = Counter(trial["state"] for trial in json.loads((folder / "sweep.out").read_text())["trials"])
    assert states == {"COMPLETE": 8}
    assert attempts(in_s3, "kept") == {1: 8}
    in_s3.wait_until_healthy()
    assert in_s3.orchestrate("sync", "kept").returncode == 0
    assert Counter(list_runs(in_s3, "kept")) == {f"FINISHED/{NUM_EPOCHS}": 8}
    kept = Counter(Path(name).name for name in list_files(in_s3))
    assert kept["predictions.zst"] == 8
    assert kept["best.safetensors"] > 0
    assert run("docker", "exec", in_s3.container("mlflow"), "find", "/artifacts", "-type", "f").stdout == ""
    best = in_s3.orchestrate("best-ensemble", "kept", "--k", "2", "--json", home=folder / "another home")
    assert len(json.loads(best.stdout)["members"]) in (1, 2)


def test_a_backup_holds_the_files_of_the_bucket(in_s3: Stack) -> None:
    """And brings them back to a server from which everything was removed."""
    before, files, compose = leaderboard(in_s3, "kept"), list_files(in_s3), " ".join(in_s3.command)
    backup = str(in_s3.folder / "backup")
    run("make", "backup", f"BACKUP={backup}", f"COMPOSE={compose}")
    in_s3.down()
    assert run("docker", "volume", "ls", "--quiet", f"--filter=name={in_s3.project}").stdout == ""
    run("make", "restore", f"BACKUP={backup}", f"COMPOSE={compose}")
    in_s3.wait_until_healthy()
    assert leaderboard(in_s3, "kept") == before
    assert list_files(in_s3) == files
    best = in_s3.orchestrate("best-ensemble", "kept", "--k", "2", "--json", home=in_s3.folder / "a third home")
    assert len(json.loads(best.stdout)["members"]) in (1, 2)


def test_an_s3_of_the_site_serves_as_well(in_s3: Stack) -> None:
    """Without the profile: files lie where S3_ENDPOINT says, below the prefix that ARTIFACTS_DESTINATION has."""
    address = in_s3.inspect("s3", "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}")
    in_s3.up(COMPOSE_PROFILES="", ARTIFACTS_DESTINATION="s3://mlflow/of/team", S3_ENDPOINT=f"http://{address}:8333")
    found = json.loads(in_s3.orchestrate("doctor", "--json", check=False).stdout)["findings"]
    assert [finding["level"] for finding in found if finding["subject"] == "files"] == ["ok"]
    whole = in_server(
        in_s3, "from bucket import Bucket; print(*Bucket().list_names())", MLFLOW_ARTIFACTS_DESTINATION="s3://mlflow"
    )
    assert [name for name in whole.stdout.split() if name.startswith("of/team/doctor/")]
    assert [name for name in list_files(in_s3) if not name.startswith("doctor/")] == []
    # what a backup holds of a volume is taken, too
    of_volume = in_s3.folder / "volume/1/run/artifacts"
    of_volume.mkdir(parents=True)
    (of_volume / "result.json").write_text("{}")
    command = (
        f"tar --directory={in_s3.folder}/volume --create . | docker exec -i {in_s3.container('mlflow')} python files.py write"
    )
    run("bash", "-o", "pipefail", "-c", command)
    assert "1/run/artifacts/result.json" in list_files(in_s3)


def test_the_secret_is_told_nowhere(in_s3: Stack) -> None:
    """Neither in what the servers log, nor in the command lines of what they run."""
    secret = in_s3.values["S3_SECRET"]
    assert secret not in in_s3.compose("logs").stdout
    for service in ("s3", "mlflow"):
        assert secret not in run("docker", "top", in_s3.container(service)).stdout
