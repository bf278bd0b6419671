"""The file of confusion matrices."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from orchestrator.state.trial.outputs import read_confusions, write_confusions


def test_what_is_written_is_read(tmp_path: Path) -> None:
    """Counts and ignored classes are the same, a second write wins, and nothing else is left in the folder."""
    path = tmp_path / "matrices ü.npz"
    matrices = np.arange(2 * 3 * 3).reshape(2, 3, 3)
    write_confusions(path, matrices, ignore_classes=(0, 2))
    write_confusions(path, matrices + 1, ignore_classes=(1,))
    confusions, ignored = read_confusions(path)
    np.testing.assert_array_equal(confusions, matrices + 1)
    assert (confusions.dtype, ignored) == (np.int32, (1,))
    assert list(tmp_path.iterdir()) == [path]
