"""No password is ever shown, whatever characters it has."""

from __future__ import annotations

import pytest

from orchestrator.errors import redact


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("postgresql://u:pa@h/db", "postgresql://u:***@h/db"),
        ("postgresql+psycopg2://u:p/a@h:5432/db", "postgresql+psycopg2://u:***@h:5432/db"),
        ("postgresql://u:p@a:p@h/db", "postgresql://u:***@h/db"),
        ("postgresql://me@tenant:p@h/db", "postgresql://me@tenant:***@h/db"),
        ("redis://:p@h", "redis://:***@h"),
        ("'http://a:p@h' and http://b:p@k:5000/x.", "'http://a:***@h' and http://b:***@k:5000/x."),
        ("postgresql://h/db?user=u&password=p&sslmode=require", "postgresql://h/db?user=u&password=***&sslmode=require"),
    ],
)
def test_passwords_are_hidden(text: str, shown: str) -> None:
    """Only the password is replaced, however it is written."""
    assert redact(text) == shown


@pytest.mark.parametrize(
    "text", ["http://host:5000/x", "sqlite:////home/a:b@c/mlflow.db", "me@host: no such user", "http://u@h/x"]
)
def test_text_without_a_password_stays(text: str) -> None:
    """Addresses and prose without a password are shown as they are."""
    assert redact(text) == text
