"""Translates errors of MLflow, its database and the network into TrackingError, without passwords."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import requests

from orchestrator.errors import TrackingError, redact
from orchestrator.tracking.location import RefusedError, TrackingLocation

_GENERAL_4XX = {401, 403, 408, 429}
"""Client errors that the next request would meet as well: they concern the connection, not what was sent."""


@contextmanager
def translate_errors(location: TrackingLocation) -> Iterator[None]:
    """Raise a TrackingError instead of what MLflow, its database or the network raise.

    Raises:
        RefusedError: the server answered and refused this request.
        TrackingError: everything else.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, (requests.RequestException, OSError)) or _is_mlflow(error):
            raise make_tracking_error(location, error) from error
        raise


def make_tracking_error(location: TrackingLocation, error: Exception) -> TrackingError:
    """The error to raise instead of ``error``: where, what, and a hint."""
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
    """Without importing mlflow: whatever raises its errors has imported it."""
    exceptions = sys.modules.get("mlflow.exceptions")
    return exceptions is not None and isinstance(error, exceptions.MlflowException)


def _is_refusal(error: Exception) -> bool:
    """Whether the request itself is at fault; MLflow reports a lost connection as an internal error, status 500."""
    if _is_mlflow(error):
        from mlflow.exceptions import ERROR_CODE_TO_HTTP_STATUS, MlflowException

        assert isinstance(error, MlflowException)
        status, is_known_path = ERROR_CODE_TO_HTTP_STATUS.get(error.error_code, 500), error.error_code != "ENDPOINT_NOT_FOUND"
    elif isinstance(error, requests.HTTPError) and error.response is not None:
        status, is_known_path = error.response.status_code, True
    else:
        return False
    return 400 <= status < 500 and status not in _GENERAL_4XX and is_known_path
