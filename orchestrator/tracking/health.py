"""Single requests to a tracking server, with the login that every request uses; for `orchestrate doctor`."""

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

VERSION = "/version"  # needs no login
EXPERIMENTS = "/api/2.0/mlflow/experiments/search?max_results=1"  # needs a login that may read
_TIMEOUT_S = 10


@dataclass(frozen=True)
class ServerAnswer:
    """status: of HTTP. text: beginning of the body. ahead_s: server's clock minus ours, to a second; None if not given."""

    status: int
    text: str
    ahead_s: float | None


def try_files(location: TrackingLocation) -> ServerAnswer:
    """Write a small file and read it back; returns the first answer that is wrong, else the last.

    Each machine has one such file, which stays: an account that may add files need not be allowed to delete any.

    Raises:
        TrackingError: there is no answer.
    """
    name, content = f"/api/2.0/mlflow-artifacts/artifacts/doctor/{socket.gethostname()}.txt", uuid.uuid4().hex
    written = ask(location, name, content)
    if written.status != 200:
        return written
    read = ask(location, name)
    if read.status == 200 and read.text != content:
        return ServerAnswer(500, "what was read is not what was written", None)
    return read


def ask(location: TrackingLocation, path: str, content: str | None = None) -> ServerAnswer:
    """GET what is at a path of the server, or PUT ``content`` there.

    Raises:
        TrackingError: there is no answer.
    """
    options = {} if content is None else {"data": content.encode()}
    began_s = time.time()
    try:
        response = http_request(  # type: ignore[no-untyped-call]  # neither has types
            get_default_host_creds(location.uri),  # type: ignore[no-untyped-call]
            path,
            "GET" if content is None else "PUT",
            max_retries=0,
            timeout=_TIMEOUT_S,
            raise_on_status=False,
            **options,
        )
    except MlflowException as error:
        raise TrackingError(f"{location}: {redact(' '.join(str(error).split()))[:300]}") from error
    middle_s, date = (began_s + time.time()) / 2, response.headers.get("Date")
    # The header has whole seconds: on average half a second has passed.
    ahead_s = None if date is None else parsedate_to_datetime(date).timestamp() + 0.5 - middle_s
    return ServerAnswer(response.status_code, response.text[:300].strip(), ahead_s)
