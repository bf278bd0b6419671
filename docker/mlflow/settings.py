"""The settings in .env, for the server's programs; none is ever passed on a command line."""

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
"""Variables with passwords."""

FIT = re.compile(r"[\w-]{12,}", re.ASCII)
"""Allowed passwords: they become part of addresses, where other characters have a meaning."""

EXAMPLE = "change-me"
"""Prefix of the passwords in .env.example."""

IN_S3 = re.compile(r"s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/.*)?", re.ASCII)
"""An S3 destination for files."""

DATABASES = {"mlflow": "mlflow", "mlflow_auth": "mlflow", "orchestrate": "orchestrate"}
"""Database -> its owner. MLflow and Optuna both have a table alembic_version, so they cannot share a database."""

TEAM = "team"
"""The MLflow user of people and machines."""


def find_faults() -> list[str]:
    """Return what is wrong with the settings, one sentence each."""
    faults = []
    for name in SECRETS:
        value = os.environ.get(name, "")
        if value.startswith(EXAMPLE):
            faults.append(f"{name} is still the example's.")
        elif not FIT.fullmatch(value):
            faults.append(f"{name} must have at least 12 characters: letters, digits, - and _.")
    given = [value for name in SECRETS if (value := os.environ.get(name))]
    if not faults and len(set(given)) < len(given):
        faults.append("Two of the passwords are equal.")
    return faults + find_faults_of_files()


def find_faults_of_files() -> list[str]:
    """Return what is wrong with the destination of files; outside the volume and S3, they would vanish with the container."""
    place = os.environ.get("ARTIFACTS_DESTINATION", "")
    if IN_S3.fullmatch(place):
        empty = [name for name in ("S3_KEY", "S3_SECRET") if not os.environ.get(name)]
        return [f"{name} is empty, but files go to {place}." for name in empty]
    if "s3" in os.environ.get("COMPOSE_PROFILES", "").split(","):
        return [f"COMPOSE_PROFILES has s3, but ARTIFACTS_DESTINATION is {place!r}, not s3://BUCKET."]
    return [f"ARTIFACTS_DESTINATION is {place!r}: leave it out or set s3://BUCKET."] if place not in ("", "/artifacts") else []


def password_of(role: str) -> str:
    """Return the password of a database role."""
    return os.environ[{"mlflow": "MLFLOW_DATABASE_PASSWORD", "orchestrate": "ORCHESTRATE_PASSWORD"}[role]]


def url_of(database: str) -> str:
    """Return the address of a database, with its owner's password."""
    owner = DATABASES[database]
    return f"postgresql+psycopg://{owner}:{password_of(owner)}@database:5432/{database}"


def public_hosts() -> list[str]:
    """Return the names under which other machines reach the server."""
    return [name.strip() for name in os.environ.get("PUBLIC_HOST", "").split(",") if name.strip()]
