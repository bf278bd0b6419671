"""Imported by the forkserver alone, once: what every worker would otherwise import again. Never touches CUDA."""

from __future__ import annotations

import gc
import importlib
import multiprocessing.forkserver
import os
import sys

PRELOADED = (
    "trainers.loader.transforms",  # first, as it keeps albumentations from asking for a newer version
    "orchestrator.launchers.worker.main",
    "orchestrator.launchers.local",
    "orchestrator.launchers.worker.process",
    "orchestrator.launchers.worker.validation",
    "numpy",
    "cv2",
    "torch",
    "torchvision",
    "segmentation_models_pytorch",
    "safetensors.torch",
    "trainers.data",
    "trainers.models.build",
    "trainers.training.train",
)


def _is_forkserver() -> bool:
    """Whether this process was started as ``from multiprocessing.forkserver import main; main(...)``."""
    return getattr(sys.modules["__main__"], "main", None) is multiprocessing.forkserver.main


def _prepare_forkserver() -> None:
    """Leave it to the dispatcher to heed signals, and die with it: Ctrl-C is for its process group, SIGTERM for all of a job."""
    os.setpgid(0, 0)  # first, so that there is hardly a moment for Ctrl-C to hit
    from orchestrator.launchers.base import STARTED_BY
    from orchestrator.launchers.worker.process import die_with_parent, outlive_sigterm

    outlive_sigterm()
    dispatcher = os.environ.pop(STARTED_BY, None)
    die_with_parent(int(dispatcher) if dispatcher else None)  # which may be dead by now, and what follows takes seconds


if _is_forkserver():
    _prepare_forkserver()
    gc.disable()  # imports make half a million objects and hardly any garbage: a tenth of their time went into looking for it
    for _name in PRELOADED:
        importlib.import_module(_name)
    gc.freeze()  # nor do workers look there, which would make them copies of what they share; each begins with gc.enable
