"""Reads runs of a server by MLflow's REST interface (https://mlflow.org/docs/latest/rest-api.html).

So a leaderboard need not import mlflow, which takes seconds.
"""

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
    """A RunSource; logs in by MLFLOW_TRACKING_USERNAME and _PASSWORD, or _TOKEN."""

    def __init__(self, location: TrackingLocation) -> None:
        self._api = location.uri.rstrip("/") + _API
        self._timeout_s = float(os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"])  # set by tracking/__init__.py
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
        """Raises: requests.RequestException: the answer is not the one requested."""
        if response.ok:
            answer: dict[str, Any] = response.json()
            return answer
        if refusal := _read_error(response):
            raise requests.HTTPError(f"{refusal.get('error_code')}: {refusal.get('message')}", response=response)
        found = f"{response.status_code} {response.reason}: {response.text[:200]}"
        raise requests.RequestException(f"{response.url} answered {found}")


def _make_login(environment: Mapping[str, str]) -> dict[str, str]:
    """The headers that MLflow's client sends; requests reads ~/.netrc for both."""
    username, password = environment.get("MLFLOW_TRACKING_USERNAME"), environment.get("MLFLOW_TRACKING_PASSWORD")
    if username and password:
        return {"Authorization": "Basic " + base64.standard_b64encode(f"{username}:{password}".encode()).decode()}
    token = environment.get("MLFLOW_TRACKING_TOKEN")
    return {"Authorization": f"Bearer {token}"} if token else {}


def _read_error(response: requests.Response) -> dict[str, Any]:
    """MLflow's description of a refusal; empty if the answer is not MLflow's, such as a proxy's."""
    try:
        answer = response.json()
    except requests.JSONDecodeError:
        return {}
    return answer if isinstance(answer, dict) and "error_code" in answer else {}


def _read_pairs(pairs: Sequence[dict[str, Any]] | None) -> dict[str, str]:
    return {pair["key"]: pair.get("value", "") for pair in pairs or ()}


def _make_row(run: dict[str, Any]) -> RunRow:
    info, data = run["info"], run.get("data", {})
    return RunRow(
        run_id=info["run_id"],
        experiment_id=info["experiment_id"],
        name=info.get("run_name") or info["run_id"],
        metrics={metric["key"]: float(metric["value"]) for metric in data.get("metrics", ())},  # which may be "NaN"
        params=_read_pairs(data.get("params")),
        tags=_read_pairs(data.get("tags")),
        start_s=int(info.get("start_time") or 0) / 1000,
        end_ms=int(info.get("end_time") or 0) or None,  # a protobuf int64, which JSON may hold as text; 0 means none
    )
