"""Reads and checks the positions that `data.clean` removes, listed directly or in a JSON file from `data check`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, Field, ValidationError

from trainers.data.checks import list_some
from trainers.errors import DataError

_MIN_KEPT = 2
"""One image for training, one for validation."""

_WRITE_AGAIN = "Write it again: `data check SOURCE --json`, with the same options"


class _Listed(BaseModel, frozen=True, strict=True):
    index: int = Field(ge=0)


class _Check(BaseModel, frozen=True, strict=True):
    """The part of `data check`'s JSON file that cleaning reads."""

    schema_version: Literal[1]
    fingerprint: str
    outliers: tuple[_Listed, ...]


def read_positions(clean: tuple[int, ...] | str | None, fingerprint: str) -> tuple[int, ...]:
    """Return the positions in the source to remove, ascending.

    clean: positions, the path of a .json file, or None; not ``auto``. fingerprint: of the source; the file must hold the same.

    Raises:
        DataError: the file cannot be read, or belongs to another source.
    """
    if not isinstance(clean, str):
        return tuple(sorted(set(clean or ())))
    path = Path(clean).expanduser()
    try:
        check = _Check.model_validate_json(path.read_bytes())
    except OSError as error:
        raise DataError(f"data.clean: {path}: cannot be read: {error.strerror or error}. {_WRITE_AGAIN}.") from error
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"])) or "the file"
        raise DataError(f"data.clean: {path}: {place}: {first['msg']}. {_WRITE_AGAIN}.") from error
    if check.fingerprint != fingerprint:
        raise DataError(
            f"data.clean: {path}: was written for a source with fingerprint {check.fingerprint}, but this one has {fingerprint}. "
            f"The positions may mean other images. {_WRITE_AGAIN}."
        )
    return tuple(sorted({outlier.index for outlier in check.outliers}))


def check_positions(positions: Sequence[int], num_images: int, place: str) -> None:
    """Check that the positions exist and that at least two images remain.

    Raises:
        DataError: a position does not exist, or too few images remain.
    """
    wrong = [position for position in positions if not 0 <= position < num_images]
    if wrong:
        raise DataError(
            f"data.clean: {list_some(wrong)}: no such position in {place}, which has {num_images} images. "
            f"Allowed: 0 to {num_images - 1}."
        )
    if num_images - len(positions) < _MIN_KEPT:
        raise DataError(
            f"data.clean: removes {len(positions)} of the {num_images} images of {place}. Leave at least {_MIN_KEPT}: one for "
            "training, one for validation."
        )
