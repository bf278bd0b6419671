"""Health check: exit 0 if the server answers the team's requests for records and files under each of its names.

MLflow's /health stays green while clients are refused or the database is down.
"""

from __future__ import annotations

import base64
import os
import sys
import urllib.request

from settings import TEAM, public_hosts

PATHS = ("mlflow/experiments/search?max_results=1", "mlflow-artifacts/artifacts?path=none")


def main() -> int:
    """Print the error to standard error, where `docker inspect` shows it."""
    login = base64.b64encode(f"{TEAM}:{os.environ['MLFLOW_TEAM_PASSWORD']}".encode()).decode()
    for host in ("mlflow:5000", *public_hosts()):
        for path in PATHS:
            headers = {"Authorization": f"Basic {login}", "Host": host}
            request = urllib.request.Request(f"http://mlflow:5000/api/2.0/{path}", headers=headers)
            try:
                urllib.request.urlopen(request, timeout=8).close()
            except OSError as error:
                print(f"{host}: {path}: {error}", file=sys.stderr)
                return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
