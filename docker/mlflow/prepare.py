"""Runs once per start: creates or updates the databases, their owners, MLflow's tables and its users."""

from __future__ import annotations

import os

import psycopg
import sqlalchemy
from mlflow.server.auth.sqlalchemy_store import SqlAlchemyStore
from mlflow.store.db.utils import _safe_initialize_tables, _upgrade_db
from psycopg import sql
from settings import DATABASES, TEAM, password_of, url_of


def main() -> None:
    """Prepare all, in the order of their dependencies."""
    prepare_databases()
    migrate()
    prepare_users()


def prepare_databases() -> None:
    """Create the roles of MLflow and orchestrate, with the passwords of .env, and their databases."""
    with psycopg.connect(
        host="database", user="postgres", password=os.environ["POSTGRES_PASSWORD"], dbname="postgres", autocommit=True
    ) as connection:
        for role in sorted(set(DATABASES.values())):
            exists = connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", [role]).fetchone()
            verb = sql.SQL("ALTER" if exists else "CREATE")
            statement = sql.SQL("{} ROLE {} LOGIN PASSWORD {}")
            connection.execute(statement.format(verb, sql.Identifier(role), sql.Literal(password_of(role))))
        for database, owner in DATABASES.items():
            if connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [database]).fetchone() is None:
                statement = sql.SQL("CREATE DATABASE {} OWNER {}")
                connection.execute(statement.format(sql.Identifier(database), sql.Identifier(owner)))
            connection.execute(sql.SQL("REVOKE ALL ON DATABASE {} FROM PUBLIC").format(sql.Identifier(database)))


def migrate() -> None:
    """Bring MLflow's tables to the version of this image."""
    engine = sqlalchemy.create_engine(url_of("mlflow"))
    _safe_initialize_tables(engine)
    _upgrade_db(engine)
    engine.dispose()


def prepare_users() -> None:
    """Create the administrator and the team, with the passwords of .env."""
    store = SqlAlchemyStore()
    store.init_db(url_of("mlflow_auth"))
    for name, variable, is_admin in (("admin", "MLFLOW_ADMIN_PASSWORD", True), (TEAM, "MLFLOW_TEAM_PASSWORD", False)):
        password = os.environ[variable]
        if not store.has_user(name):
            store.create_user(name, password, is_admin=is_admin)
        elif not store.authenticate_user(name, password):
            store.update_user(name, password=password)


if __name__ == "__main__":
    main()
