"""What MLflow, its database or the network raise -> one error of ours: where, what and what to do, and no password in it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import requests

from orchestrator.errors import TrackingError, redact
from orchestrator.tracking.location import RefusedError, TrackingLocation

_EVERY_REQUEST = {401, 403, 408, 429}  # of all 4xx those that the next request would meet as well


@contextmanager
def translate_errors(location: TrackingLocation) -> Iterator[None]:
    """Turn what MLflow (its database's errors included) or the network raises into a TrackingError without passwords.

    Raises:
        RefusedError: the server answered, and refused what it was sent.
        TrackingError: everything else.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, (requests.RequestException, OSError)) or _is_mlflow(error):
            raise make_tracking_error(location, error) from error
        raise


def make_tracking_error(location: TrackingLocation, error: Exception) -> TrackingError:
    """The error to raise instead of ``error``."""
    found = redact(" ".join(str(error).split()))[:600]
    if _is_refusal(error):
        return RefusedError(f"{location}: {type(error).__name__}: {found}")
    hint = (
        "Is the file writable, the disk full, or was it written by another MLflow?"
        if location.is_database
        else "Is the server up, is MLFLOW_TRACKING_URI right, are MLFLOW_TRACKING_USERNAME and _PASSWORD set?"
    )
    return TrackingError(f"{location}: {type(error).__name__}: {found} {hint}")


def _is_mlflow(error: Exception) -> bool:
    """Without importing mlflow, which takes seconds: who raises its errors has done so."""
    exceptions = sys.modules.get("mlflow.exceptions")
    return exceptions is not None and isinstance(error, exceptions.MlflowException)


def _is_refusal(error: Exception) -> bool:
    """Whether the fault is in what was sent; MLflow reports a lost connection as an internal error, which is 500."""
    if _is_mlflow(error):
        from mlflow.exceptions import ERROR_CODE_TO_HTTP_STATUS, MlflowException

        assert isinstance(error, MlflowException)
        status, is_known_path = ERROR_CODE_TO_HTTP_STATUS.get(error.error_code, 500), error.error_code != "ENDPOINT_NOT_FOUND"
    elif isinstance(error, requests.HTTPError) and error.response is not None:
        status, is_known_path = error.response.status_code, True
    else:
        return False
    return 400 <= status < 500 and status not in _EVERY_REQUEST and is_known_path
