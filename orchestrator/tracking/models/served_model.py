"""The code of a logged model: MLflow runs this file when it loads the model. It needs only ``trainers``."""

from pathlib import Path
from typing import Any

import numpy as np
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel, PythonModelContext

from trainers.prediction.ensemble import Ensemble, read_members


class SegmentationModel(PythonModel):
    """Images -> masks: uint8 (N, H, W) gray or (N, H, W, 3) colour, of any size -> uint8 classes (N, H, W)."""

    def load_context(self, context: PythonModelContext) -> None:
        members, mean = read_members(Path(context.artifacts["members"]))
        self._ensemble = Ensemble(members, mean=mean)

    # MLflow reads the annotation: it accepts np.ndarray and warns about NDArray[np.uint8]
    def predict(self, context: PythonModelContext, model_input: np.ndarray, params: dict[str, Any] | None = None) -> np.ndarray:
        images = model_input[..., np.newaxis] if self._ensemble.in_channels == 1 else model_input
        return self._ensemble.predict(images)


set_model(SegmentationModel())
