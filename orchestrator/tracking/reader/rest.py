"""Runs as a tracking server tells them over MLflow's REST interface (https://mlflow.org/docs/latest/rest-api.html).

Only reads, and only what readers of runs need: so that a leaderboard need not wait for mlflow's import, of several seconds.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

from orchestrator.tracking.location import TrackingLocation
from orchestrator.tracking.reader.row import ExperimentRow, RunRow

_API = "/api/2.0/mlflow/"
_PAGE = 1000
_RETRIES = Retry(
    total=1, backoff_factor=1, status_forcelist=(408, 429, 500, 502, 503, 504), allowed_methods=None, raise_on_status=False
)


class RestSource:
    """A RunSource. The login is MLFLOW_TRACKING_USERNAME and _PASSWORD, or _TOKEN."""

    def __init__(self, location: TrackingLocation) -> None:
        self._api = location.uri.rstrip("/") + _API
        self._timeout_s = float(os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"])  # the package has set it
        self._session = requests.Session()
        self._session.headers.update(_make_login(os.environ))
        self._session.mount(self._api, HTTPAdapter(max_retries=_RETRIES))

    def list_experiments(self) -> list[ExperimentRow]:
        return [
            ExperimentRow(found["experiment_id"], found["name"], _read_pairs(found.get("tags")))
            for page in self._ask_pages("experiments/search", {})
            for found in page.get("experiments", ())
        ]

    def find_experiment(self, name: str) -> str | None:
        answer = self._find("experiments/get-by-name", {"experiment_name": name})
        return None if answer is None else str(answer["experiment"]["experiment_id"])

    def search(self, experiments: Sequence[str], query: str = "", *, is_deleted: bool = False) -> list[RunRow]:
        view = "DELETED_ONLY" if is_deleted else "ACTIVE_ONLY"
        body = {"experiment_ids": list(experiments), "filter": query, "run_view_type": view}
        return [_make_row(run) for page in self._ask_pages("runs/search", body) for run in page.get("runs", ())]

    def find_latest(self, experiments: Sequence[str], query: str) -> RunRow | None:
        body = {"experiment_ids": list(experiments), "filter": query, "order_by": ["attributes.start_time DESC"]}
        found = self._read(self._session.post(self._api + "runs/search", json=body | {"max_results": 1}, timeout=self._timeout_s))
        return _make_row(found["runs"][0]) if found.get("runs") else None

    def find_run(self, run_id: str) -> RunRow | None:
        answer = self._find("runs/get", {"run_id": run_id})
        return None if answer is None else _make_row(answer["run"])

    def list_files(self, run_id: str, folder: str = "") -> list[str]:
        wanted = {"run_id": run_id} | ({"path": folder} if folder else {})
        answer = self._read(self._session.get(self._api + "artifacts/list", params=wanted, timeout=self._timeout_s))
        return [file["path"] for file in answer.get("files", ()) if not file.get("is_dir")]

    def _ask_pages(self, path: str, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
        token: str | None = None
        while True:
            page = body | {"max_results": _PAGE} | ({"page_token": token} if token else {})
            answer = self._read(self._session.post(self._api + path, json=page, timeout=self._timeout_s))
            yield answer
            if not (token := answer.get("next_page_token")):
                return

    def _find(self, path: str, wanted: dict[str, str]) -> dict[str, Any] | None:
        response = self._session.get(self._api + path, params=wanted, timeout=self._timeout_s)
        if response.status_code == 404 and _read_error(response).get("error_code") == "RESOURCE_DOES_NOT_EXIST":
            return None
        return self._read(response)

    def _read(self, response: requests.Response) -> dict[str, Any]:
        """Raises: requests.RequestException: it is not the answer that was asked for."""
        if response.ok:
            answer: dict[str, Any] = response.json()
            return answer
        if said := _read_error(response):
            raise requests.HTTPError(f"{said.get('error_code')}: {said.get('message')}", response=response)
        found = f"{response.status_code} {response.reason}: {response.text[:200]}"
        raise requests.RequestException(f"{response.url} answered {found}")


def _make_login(environment: Mapping[str, str]) -> dict[str, str]:
    """Headers, as MLflow's client sends them; ~/.netrc counts for both, for it is requests that reads it."""
    username, password = environment.get("MLFLOW_TRACKING_USERNAME"), environment.get("MLFLOW_TRACKING_PASSWORD")
    if username and password:
        return {"Authorization": "Basic " + base64.standard_b64encode(f"{username}:{password}".encode()).decode()}
    token = environment.get("MLFLOW_TRACKING_TOKEN")
    return {"Authorization": f"Bearer {token}"} if token else {}


def _read_error(response: requests.Response) -> dict[str, Any]:
    """What MLflow says of a refusal; empty where the answer is somebody else's, as a proxy's."""
    try:
        said = response.json()
    except requests.JSONDecodeError:
        return {}
    return said if isinstance(said, dict) and "error_code" in said else {}


def _read_pairs(pairs: Sequence[dict[str, Any]] | None) -> dict[str, str]:
    return {pair["key"]: pair.get("value", "") for pair in pairs or ()}


def _read_ms(value: str | int | None) -> int | None:
    """Of protobuf's int64, which JSON may hold as text; MLflow has None until there is one."""
    return None if value in (None, "", 0, "0") else int(value)


def _make_row(run: dict[str, Any]) -> RunRow:
    info, data = run["info"], run.get("data", {})
    return RunRow.of(
        run_id=info["run_id"],
        experiment_id=info["experiment_id"],
        run_name=info.get("run_name"),
        start_ms=_read_ms(info.get("start_time")),
        end_ms=_read_ms(info.get("end_time")),
        metrics={metric["key"]: float(metric["value"]) for metric in data.get("metrics", ())},  # which may be "NaN"
        params=_read_pairs(data.get("params")),
        tags=_read_pairs(data.get("tags")),
    )
