"""``notify`` in a sweep file: addresses that are told how the sweep ended. They may hold passwords, so no message shows one."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field


def _to_list(value: Any) -> Any:
    addresses = [value] if isinstance(value, str) else value
    if not isinstance(addresses, list | tuple) or not all(isinstance(a, str) and a.strip() for a in addresses):
        raise ValueError(
            "is neither an address nor a list of addresses. Allowed: URLs as Apprise takes them, such as mailto://..., or "
            "${NAME} for what the environment variable NAME holds"
        )
    return tuple(addresses)


Addresses = Annotated[tuple[str, ...], BeforeValidator(_to_list), Field(exclude=True, repr=False)]
"""One or several, as they were written; in no dump of the spec, because a dump is stored and shown."""
