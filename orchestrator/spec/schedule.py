"""``schedule`` in a sweep file: when `orchestrate schedule` runs it."""

from __future__ import annotations

import zoneinfo
from typing import Any

from pydantic import Field, field_validator, model_validator

from orchestrator.scheduling.cron import EXAMPLE
from orchestrator.spec.part import Part
from orchestrator.spec.schema import nearest


class ScheduleSpec(Part):
    """A line as in a crontab, and what goes with it. The line alone may stand for all of it."""

    cron: str
    """minute hour day month weekday"""
    timezone: str | None = None
    """By its name; default: this machine's."""
    misfire_grace_s: float = Field(default=3600, ge=1)
    """How late an occurrence may be found due, when nothing was there to run it, and still be run."""
    again: bool = False
    """Train everything anew at each occurrence, also where neither file nor data have changed."""

    @model_validator(mode="before")
    @classmethod
    def _from_line(cls, given: Any) -> Any:
        if isinstance(given, str):
            return {"cron": given}
        if not isinstance(given, dict):
            raise ValueError(f"is {given!r}. Allowed: {EXAMPLE}, or a mapping with {', '.join(cls.model_fields)}")
        if "priority" in given:
            raise ValueError(f"has a priority, which stands beside 'schedule' now: 'priority: {given['priority']}'")
        if "name" in given:
            raise ValueError("has a name, as the course of a learning rate has. Did you mean 'base.schedule'?")
        return given

    @field_validator("cron")
    @classmethod
    def _usable_line(cls, text: str) -> str:
        from orchestrator.scheduling.clock import check_line  # most files have no schedule, and need no APScheduler

        try:
            return check_line(text).text
        except ValueError as error:
            raise ValueError(f"{text!r} is not a line of a crontab: {error}. Allowed: {EXAMPLE}") from None

    @field_validator("timezone")
    @classmethod
    def _known_zone(cls, name: str | None) -> str | None:
        if name is None or name in (known := zoneinfo.available_timezones()):
            return name
        if not known:
            raise ValueError(f"{name!r} is not to be found: this machine knows no time zones. Install the package tzdata")
        cities = {zone.rpartition("/")[2]: zone for zone in sorted(known)}
        near = cities.get(name) or nearest(name, known) or cities.get(nearest(name.rpartition("/")[2], cities) or "")
        hint = f" Did you mean {near!r}?" if near else ""
        raise ValueError(f"{name!r} is not a known time zone. Allowed: names such as Europe/Rome or UTC.{hint}")
