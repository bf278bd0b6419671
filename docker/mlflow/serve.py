"""Starts the tracking server: writes MLflow's configuration file and sets its environment."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from settings import public_hosts, url_of

CONFIG = Path("/tmp/basic_auth.ini")


def main() -> None:
    """Replace this process by the server."""
    hosts = ["mlflow", "localhost", "127.0.0.1", *public_hosts()]
    origins = [f"{scheme}://{host}{port}" for scheme in ("http", "https") for host in hosts for port in ("", ":*")]
    admin = os.environ["MLFLOW_ADMIN_PASSWORD"]
    # a team shares experiments: every user may add to all of them
    CONFIG.write_text(
        "[mlflow]\ndefault_permission = EDIT\n"
        f"database_uri = {url_of('mlflow_auth')}\nadmin_username = admin\nauth_cache_ttl_seconds = 60\n",
        encoding="utf-8",
    )
    CONFIG.chmod(0o600)
    environment = os.environ | {
        "MLFLOW_BACKEND_STORE_URI": url_of("mlflow"),
        "MLFLOW_AUTH_CONFIG_PATH": str(CONFIG),
        "MLFLOW_AUTH_ADMIN_PASSWORD": admin,
        "MLFLOW_FLASK_SERVER_SECRET_KEY": hashlib.sha256(f"cookies {admin}".encode()).hexdigest(),
        # a request for another host gets 403; this list replaces MLflow's defaults
        "MLFLOW_SERVER_ALLOWED_HOSTS": ",".join(f"{host}{port}" for host in hosts for port in ("", ":*")),
        # so do requests from a page that was opened under another name
        "MLFLOW_SERVER_CORS_ALLOWED_ORIGINS": ",".join(origins),
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }
    command = ["mlflow", "server", "--app-name", "basic-auth", "--host", "0.0.0.0", "--port", "5000", "--serve-artifacts"]
    os.execvpe(command[0], [*command, "--workers", os.environ.get("MLFLOW_WORKERS", "2")], environment)


if __name__ == "__main__":
    main()
