"""What .env says, as the server's programs need it; nothing of it ever stands in a command line."""

from __future__ import annotations

import os
import re

SECRETS = (
    "POSTGRES_PASSWORD",
    "MLFLOW_DATABASE_PASSWORD",
    "ORCHESTRATE_PASSWORD",
    "MLFLOW_ADMIN_PASSWORD",
    "MLFLOW_TEAM_PASSWORD",
)
"""Variables that hold passwords."""

FIT = re.compile(r"[\w-]{12,}", re.ASCII)
"""Of what a password is made: it becomes part of addresses, in which other characters mean something."""

EXAMPLE = "change-me"
"""What the example's passwords begin with."""

IN_S3 = re.compile(r"s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/.*)?", re.ASCII)
"""A place for files that is not the volume."""

DATABASES = {"mlflow": "mlflow", "mlflow_auth": "mlflow", "orchestrate": "orchestrate"}
"""Database -> the role that owns it. MLflow and Optuna both have a table alembic_version: never one database for both."""

TEAM = "team"
"""The MLflow user as whom people and machines work."""


def find_faults() -> list[str]:
    """What is wrong with the passwords, one sentence each."""
    faults = []
    for name in SECRETS:
        value = os.environ.get(name, "")
        if value.startswith(EXAMPLE):
            faults.append(f"{name} is the example's.")
        elif not FIT.fullmatch(value):
            faults.append(f"{name} is to be 12 or more of letters, digits, - and _.")
    given = [value for name in SECRETS if (value := os.environ.get(name))]
    if not faults and len(set(given)) < len(given):
        faults.append("Two of the passwords are the same.")
    return faults + find_faults_of_files()


def find_faults_of_files() -> list[str]:
    """What is wrong with where files are to lie: elsewhere than in the volume or in S3 they would be gone with the container."""
    place = os.environ.get("ARTIFACTS_DESTINATION", "")
    if IN_S3.fullmatch(place):
        empty = [name for name in ("S3_KEY", "S3_SECRET") if not os.environ.get(name)]
        return [f"{name} is empty, and files are to lie in {place}." for name in empty]
    if "s3" in os.environ.get("COMPOSE_PROFILES", "").split(","):
        return [f"COMPOSE_PROFILES has s3, and ARTIFACTS_DESTINATION is {place!r}, not s3://BUCKET."]
    return [f"ARTIFACTS_DESTINATION is {place!r}: leave it away or name s3://BUCKET."] if place not in ("", "/artifacts") else []


def password_of(role: str) -> str:
    """The password of a role of the databases."""
    return os.environ[{"mlflow": "MLFLOW_DATABASE_PASSWORD", "orchestrate": "ORCHESTRATE_PASSWORD"}[role]]


def url_of(database: str) -> str:
    """Where a database is, with its owner's password."""
    owner = DATABASES[database]
    return f"postgresql+psycopg://{owner}:{password_of(owner)}@database:5432/{database}"


def public_hosts() -> list[str]:
    """Names by which other machines know the server."""
    return [name.strip() for name in os.environ.get("PUBLIC_HOST", "").split(",") if name.strip()]
