"""Passwords out of messages: everything that shows an address of a server or a database goes through here."""

from __future__ import annotations

import re

# Up to the last @ before a space, because a password may hold @, / and :. In doubt (a path with an @) too much is hidden.
_IN_ADDRESS = re.compile(r"(\w://[^\s/:]*):\S*@")
_IN_QUERY = re.compile(r"([?&;](?:\w*password|passwd|pwd|\w*token)=)[^\s&;'\"]+", re.IGNORECASE)


def redact(text: str) -> str:
    """Take the passwords out of every address in ``text``; user, host, port and path stay."""
    return _IN_QUERY.sub(r"\1***", _IN_ADDRESS.sub(r"\1:***@", text))
