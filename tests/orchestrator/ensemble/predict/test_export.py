"""The model as MLflow keeps and serves it: from code and safetensors, in processes that know nothing of this one."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from orchestrator.ensemble.predict.export import ExportReport, export
from orchestrator.ensemble.predict.predict import predict
from orchestrator.errors import PredictError
from trainers.config import TrainConfig
from trainers.models.build import build_model
from trainers.prediction.weights import ModelInfo
from trainers.training.checkpoint import save_best

pytestmark = [
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning"),  # mlflow 3.17, SQLAlchemy 2.1
    pytest.mark.filterwarnings("ignore:.*Any type hint is inferred as AnyType:UserWarning"),  # mlflow's own, while it is imported
]

MY_NET = """
import torch


class Net(torch.nn.Conv2d):
    def __init__(self, *, in_channels, classes):
        super().__init__(in_channels, classes, 3, padding=1)
"""

LOAD = """
import sys
import mlflow.pyfunc
import numpy as np
model = mlflow.pyfunc.load_model(sys.argv[1])
import trainers
assert trainers.__file__.startswith(sys.argv[1]), trainers.__file__
np.save("masks.npy", model.predict(np.load(sys.argv[2])))
"""


@pytest.fixture(scope="module")
def exported(trained) -> ExportReport:
    """The ensemble, logged to its run."""
    return export(trained.sweep, home=trained.home)


@pytest.fixture
def client(trained) -> MlflowClient:
    """Of the trials' records."""
    return MlflowClient(trained.home.mlflow_uri)


def predicted(trained, folder: Path) -> np.ndarray:
    """What ``orchestrate predict`` gives for the validation images."""
    predict(trained.sweep, trained.source, out=folder / "expected.npz", home=trained.home)
    masks: np.ndarray = np.load(folder / "expected.npz")["masks"]
    return masks


def clean_environment(**variables: str) -> dict[str, str]:
    """One thread, and nothing of what may be set for this process."""
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "MLFLOW_TRACKING_URI")}
    return environment | {"OMP_NUM_THREADS": "1", "MLFLOW_DISABLE_TELEMETRY": "true"} | variables


def test_the_model_belongs_to_the_ensembles_run(trained, exported: ExportReport, client: MlflowClient) -> None:
    """READY, once, however often it is exported."""
    assert exported.run_id == trained.report.run_id
    assert export(str(trained.report.run_id), home=trained.home).uri == exported.uri
    run = client.get_run(exported.run_id)
    assert [f"models:/{model.model_id}" for model in run.outputs.model_outputs] == [exported.uri]
    model = client.get_logged_model(exported.uri.removeprefix("models:/"))
    assert (model.status, model.source_run_id, model.name) == ("READY", exported.run_id, "segmentation")


def test_nothing_in_it_is_pickled(exported: ExportReport, client: MlflowClient) -> None:
    """Code, safetensors and text; versions without addresses."""
    model = client.get_logged_model(exported.uri.removeprefix("models:/"))
    folder = Path(urllib.request.url2pathname(model.artifact_location.removeprefix("file://")))
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert {path.suffix for path in files} <= {".py", ".safetensors", ".json", ".yaml", ".txt", ""}
    assert sum(path.suffix == ".safetensors" for path in files) == 3
    requirements = (folder / "requirements.txt").read_text().split()
    assert f"torch=={torch.__version__.partition('+')[0]}" in requirements
    assert not [line for line in requirements if "://" in line or "+" in line or line.startswith("-")]


def test_it_predicts_what_predict_does(trained, tmp_path: Path) -> None:
    """For any number of images of any size; what the signature does not allow is refused."""
    import mlflow.pyfunc  # not above, where its warnings would be errors

    report = export(trained.sweep, home=trained.home, out=tmp_path / "model")
    model = mlflow.pyfunc.load_model(report.uri)
    assert np.array_equal(model.predict(trained.images), predicted(trained, tmp_path))
    assert model.predict(np.zeros((1, 50, 30), np.uint8)).shape == (1, 50, 30)
    assert [str(spec.type) + str(spec.shape) for spec in model.metadata.signature.outputs] == ["uint8(-1, -1, -1)"]
    for wrong in (trained.images[0], trained.images / 255):
        with pytest.raises(MlflowException, match="Failed to enforce schema"):
            model.predict(wrong)


def test_an_existing_output_and_an_unknown_run_are_reported(trained, tmp_path: Path) -> None:
    """Nothing is overwritten; a checkpoint has no run to be logged to."""
    with pytest.raises(PredictError, match="exists already"):
        export(trained.sweep, home=trained.home, out=tmp_path)
    with pytest.raises(PredictError, match=r"has no run to log a model to\. Name a folder with --out"):
        export(str(trained.home.trial_folder(trained.keys[0])), home=trained.home)


@pytest.mark.slow
@pytest.mark.long
def test_a_fresh_process_elsewhere_loads_it(trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a custom architecture, on colour images, after the folder was moved; this checkout is not imported."""
    here, there = tmp_path / "here", tmp_path / "somewhere else"
    here.mkdir()
    there.mkdir()
    (here / "my_net.py").write_text(MY_NET)
    monkeypatch.chdir(here)
    monkeypatch.syspath_prepend(here)
    config = TrainConfig(arch="my_net:Net", precision="float32")
    save_best(here, build_model(config, in_channels=3, num_classes=4), ModelInfo(config=config, in_channels=3, num_classes=4))
    images = np.random.default_rng(0).integers(0, 256, (3, 20, 30, 3), dtype=np.uint8)
    np.savez(here / "images.npz", images)
    predict(str(here / "best.safetensors"), here / "images.npz", out=there / "expected.npz", home=trained.home)
    report = export(str(here / "best.safetensors"), home=trained.home, out=here / "model")
    moved = Path(report.uri).rename(there / "model")
    np.save(there / "images.npy", images)
    (here / "my_net.py").unlink()

    command = [sys.executable, "-c", LOAD, str(moved), "images.npy"]
    done = subprocess.run(command, cwd=there, env=clean_environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert np.array_equal(np.load(there / "masks.npy"), np.load(there / "expected.npz")["masks"])


@pytest.fixture
def server(trained, exported: ExportReport, tmp_path: Path) -> Iterator[str]:
    """``mlflow models serve`` on loopback; its whole group ends with the test."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [
        sys.executable, "-m", "mlflow", "models", "serve", "-m", exported.uri, "--env-manager", "local",
        "--host", "127.0.0.1", "--port", str(port),
    ]  # fmt: skip
    environment = clean_environment(MLFLOW_TRACKING_URI=trained.home.mlflow_uri)
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    with open(tmp_path / "log", "wb") as log:
        process = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        deadline_s = time.monotonic() + 240
        while not answers(f"http://127.0.0.1:{port}/ping"):
            assert process.poll() is None, (tmp_path / "log").read_text()
            assert time.monotonic() < deadline_s, (tmp_path / "log").read_text()
            time.sleep(0.2)
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def answers(url: str) -> bool:
    """Whether somebody is up there."""
    try:
        with urllib.request.urlopen(url, timeout=10):
            return True
    except (urllib.error.URLError, OSError):
        return False


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.timeout(400)
def test_the_server_answers_with_the_same_masks(trained, server: str, tmp_path: Path) -> None:
    """To a request as MLflow's documentation writes it."""
    body = json.dumps({"inputs": trained.images.tolist()}).encode()
    request = urllib.request.Request(f"{server}/invocations", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as response:
        answered = json.load(response)
    assert np.array_equal(np.array(answered["predictions"]), predicted(trained, tmp_path))
