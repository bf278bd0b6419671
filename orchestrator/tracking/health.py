"""Single questions to a tracking server, with the login of every other request, as `orchestrate doctor` asks them."""

from __future__ import annotations

import importlib.metadata
import socket
import time
import uuid
from dataclasses import dataclass
from email.utils import parsedate_to_datetime

import mlflow  # noqa: F401  whole, before its parts (see __init__.py)
from mlflow.exceptions import MlflowException
from mlflow.utils.credentials import get_default_host_creds
from mlflow.utils.rest_utils import http_request

from orchestrator.errors import TrackingError, redact
from orchestrator.tracking.location import TrackingLocation

_TIMEOUT_S = 10


@dataclass(frozen=True)
class Answer:
    """status: of HTTP. text: the beginning of the body. ahead_s: the server's clock less ours, to a second; None: untold."""

    status: int
    text: str
    ahead_s: float | None


def client_version() -> str:
    """Of the mlflow of this machine."""
    return importlib.metadata.version("mlflow")


def ask_version(location: TrackingLocation) -> Answer:
    """The server's version; told to everybody, under whatever name they know it.

    Raises:
        TrackingError: there is no answer.
    """
    return _ask(location, "GET", "/version")


def ask_experiments(location: TrackingLocation) -> Answer:
    """Whether records are shown to whoever we are.

    Raises:
        TrackingError: there is no answer.
    """
    return _ask(location, "GET", "/api/2.0/mlflow/experiments/search?max_results=1")


def try_files(location: TrackingLocation) -> Answer:
    """Write a small file and read it; the answer that is not as it should be, or the last.

    It is one for each machine, and stays: who may add to the team's experiments need not be allowed to remove anything.

    Raises:
        TrackingError: there is no answer.
    """
    name, content = f"/api/2.0/mlflow-artifacts/artifacts/doctor/{socket.gethostname()}.txt", uuid.uuid4().hex
    written = _ask(location, "PUT", name, content)
    if written.status != 200:
        return written
    read = _ask(location, "GET", name)
    return read if read.status != 200 or read.text == content else Answer(500, "what was read is not what was written", None)


def _ask(location: TrackingLocation, method: str, path: str, content: str | None = None) -> Answer:
    options = {} if content is None else {"data": content.encode()}
    began_s = time.time()
    try:
        response = http_request(  # type: ignore[no-untyped-call]  # neither has types
            get_default_host_creds(location.uri),  # type: ignore[no-untyped-call]
            path,
            method,
            max_retries=0,
            timeout=_TIMEOUT_S,
            raise_on_status=False,
            **options,
        )
    except MlflowException as error:
        raise TrackingError(f"{location}: {redact(' '.join(str(error).split()))[:300]}") from error
    middle_s = (began_s + time.time()) / 2
    return Answer(response.status_code, response.text[:300].strip(), _find_lead(response.headers.get("Date"), middle_s))


def _find_lead(date: str | None, now_s: float) -> float | None:
    """The header's seconds are whole: on average half a second has passed since."""
    return None if date is None else parsedate_to_datetime(date).timestamp() + 0.5 - now_s
