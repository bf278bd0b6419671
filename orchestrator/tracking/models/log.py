"""Checkpoints -> an MLflow model of a script, safetensors and the package that reads them: in a folder, or logged to a run."""

import importlib.metadata
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import mlflow
import mlflow.pyfunc
import numpy as np
from mlflow.entities import LoggedModelOutput, LoggedModelStatus
from mlflow.models import Model, ModelSignature
from mlflow.types import Schema, TensorSpec

from orchestrator.tracking.client import connect
from orchestrator.tracking.errors import translate_errors
from orchestrator.tracking.location import TrackingLocation
from orchestrator.tracking.tags import Tag

MODEL_NAME = "segmentation"
LIBRARIES = ("torch", "segmentation-models-pytorch", "timm", "safetensors", "numpy", "pydantic", "opencv-python-headless")
"""What ``trainers`` imports to predict; MLflow adds itself."""
_SCRIPT = Path(__file__).with_name("served_model.py")


@dataclass(frozen=True)
class ModelParts:
    """What a logged model is made of.

    members: folder written by ``trainers.prediction.ensemble.save_members``; code: packages and modules to include;
    in_channels: 1 or 3; size: (height, width) of the example; identity: equal for equal models.
    """

    members: Path
    code: Sequence[Path]
    in_channels: int
    size: tuple[int, int]
    identity: str


def save_model(parts: ModelParts, folder: Path, described_as: Model | None = None) -> None:
    """Write the model to ``folder``, which must not exist, for ``mlflow.pyfunc.load_model`` and ``mlflow models serve``."""
    uint8, channels = np.dtype(np.uint8), () if parts.in_channels == 1 else (parts.in_channels,)  # gray: no channel axis
    images = TensorSpec(uint8, (-1, -1, -1, *channels))
    mlflow.pyfunc.save_model(
        str(folder),
        python_model=str(_SCRIPT),
        artifacts={"members": str(parts.members)},
        code_paths=[str(path) for path in parts.code],
        mlflow_model=described_as,
        signature=ModelSignature(inputs=Schema([images]), outputs=Schema([TensorSpec(uint8, (-1, -1, -1))])),
        input_example=np.zeros((1, *parts.size, *channels), np.uint8),
        # without the local part of a version (``+cu128``), which no registry has
        pip_requirements=[f"{name}=={importlib.metadata.version(name).partition('+')[0]}" for name in LIBRARIES],
    )


def log_model(location: TrackingLocation, run_id: str, parts: ModelParts) -> str:
    """Log the model as an output of the run, once per identity; returns its URI, ``models:/m-...``.

    Raises:
        TrackingError: the server cannot be used.
    """
    client = connect(location)
    with translate_errors(location):
        run = client.get_run(run_id)
        experiment = run.info.experiment_id
        for known in client.search_logged_models([experiment], f"tags.`{Tag.MODEL_IDENTITY}` = '{parts.identity}'"):
            if known.status == LoggedModelStatus.READY:  # logged completely
                return str(known.model_uri)
        tags: dict[str, str] = {Tag.MODEL_IDENTITY: parts.identity}
        model = client.create_logged_model(experiment, MODEL_NAME, source_run_id=run_id, tags=tags, params=run.data.params)
        status = LoggedModelStatus.FAILED
        try:
            with tempfile.TemporaryDirectory() as scratch:
                folder = Path(scratch) / "model"
                described = Model(model.artifact_location, run_id, model_uuid=model.model_id, model_id=model.model_id)
                save_model(parts, folder, described)
                client.log_model_artifacts(model.model_id, str(folder))
            client.log_outputs(run_id, [LoggedModelOutput(model.model_id, step=0)])
            status = LoggedModelStatus.READY
        finally:
            client.finalize_logged_model(model.model_id, status)
        return str(model.model_uri)
