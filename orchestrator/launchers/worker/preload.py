"""Imported once, by the forkserver: loads what every worker would import again. Never touches CUDA."""

import gc
import importlib
import multiprocessing.forkserver
import os
import sys

PRELOADED = (
    "trainers.loader.transforms",  # first: it keeps albumentations from asking for a newer version
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


def _prepare_forkserver() -> None:
    """Ignore signals and die with the dispatcher, which decides: Ctrl-C reaches its process group, SIGTERM a whole job."""
    os.setpgid(0, 0)  # first, so that there is hardly a moment for Ctrl-C
    from orchestrator.launchers.base import STARTED_BY
    from orchestrator.launchers.worker.process import block_sigterm, die_with_parent

    block_sigterm()
    dispatcher = os.environ.pop(STARTED_BY, None)
    die_with_parent(int(dispatcher) if dispatcher else None)  # it may be dead by now, and what follows takes seconds


# a forkserver is started as ``from multiprocessing.forkserver import main; main(...)``
if getattr(sys.modules["__main__"], "main", None) is multiprocessing.forkserver.main:
    _prepare_forkserver()
    gc.disable()  # imports make half a million objects and hardly any garbage: a tenth of their time went into looking for it
    for _name in PRELOADED:
        importlib.import_module(_name)
    gc.freeze()  # so that workers do not copy shared pages to look for garbage; each begins with gc.enable
