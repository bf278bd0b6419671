"""`orchestrate data make`: writes the synthetic data set as a .npz in the layout of the homework."""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from orchestrator.errors import SpecError
from orchestrator.operations.data.sheet import write_file
from orchestrator.spec.diagnostics import fail, validate
from orchestrator.spec.document import Document
from trainers.config import SyntheticConfig
from trainers.data.sources.synthetic import make_synthetic


def make_data(out: Path, options: Mapping[str, Any]) -> str:
    """Write ``training_set`` (N, 2, H, W) uint8 to ``out``; options: fields of data.synthetic. Returns a line for people.

    Raises:
        SpecError: an option is wrong, or ``out`` is no .npz or exists.
        DataError: it cannot be written.
    """
    if out.suffix.lower() != ".npz":
        raise SpecError(f"{out}: is of type {out.suffix or 'none'!r}. Allowed: .npz.")
    if out.exists():
        raise SpecError(f"{out}: exists already and is not overwritten. Delete it, or name another file.")
    config, complaints = validate(SyntheticConfig, dict(options), ("data", "synthetic"))
    if config is None:
        raise fail(Document(str(out), {}, {}), complaints)
    tiles = make_synthetic(config)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, training_set=np.stack([tiles.images, tiles.masks], axis=1))
    write_file(out, buffer.getvalue())
    outliers = f", {len(tiles.outliers)} of them outliers" if len(tiles.outliers) else ""
    return f"{out}: training_set of {config.num_images} tiles of {config.height}x{config.width}{outliers}"
