"""Reads a crontab line into the numbers that its five fields stand for; for sections.py and for `orchestrate schedule`."""

import calendar
import re
from dataclasses import dataclass

WEEKDAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")

EXAMPLE = "minute hour day month weekday, such as '0 22 * * 1-5'"

_LONGEST = {month: 29 if month == 2 else calendar.monthrange(2000, month)[1] for month in range(1, 13)}
"""Month -> the most days it can have."""

_PART = re.compile(r"(?:(?P<all>\*)|(?P<first>\w+)(?:-(?P<last>\w+))?)(?:/(?P<step>\d+))?", re.ASCII)


@dataclass(frozen=True)
class CronField:
    """One field of the line. text: as written. values: the numbers it stands for; weekday 0 is Sunday."""

    text: str
    values: frozenset[int]

    @property
    def is_open(self) -> bool:
        """Whether it begins with a star, which decides how cron combines days and weekdays."""
        return self.text.startswith("*")


@dataclass(frozen=True)
class CronLine:
    """The minutes at which a sweep is due, as in crontab(5)."""

    minute: CronField
    hour: CronField
    day: CronField
    month: CronField
    weekday: CronField

    @property
    def takes_either_day(self) -> bool:
        """Whether a date must match the day or the weekday; otherwise it must match both."""
        return not self.day.is_open and not self.weekday.is_open

    @property
    def text(self) -> str:
        """The line, with one space between its fields."""
        return " ".join(field.text for field in (self.minute, self.hour, self.day, self.month, self.weekday))


def check_line(text: str) -> CronLine:
    """Read a line that is due at some time.

    Raises:
        ValueError: as parse_line, or no calendar has such a date, as the 30th of February.
    """
    line = parse_line(text)
    first_day = min(line.day.values)
    if not line.takes_either_day and all(first_day > _LONGEST[month] for month in line.month.values):
        raise ValueError("no date ever matches it")
    return line


def parse_line(text: str) -> CronLine:
    """Read a line.

    Raises:
        ValueError: crontab(5) does not allow it.
    """
    fields = text.split()
    if len(fields) != 5:
        raise ValueError(f"it has {len(fields)} fields, not five")
    minute, hour, day, month, weekday = fields
    return CronLine(
        CronField(minute, _expand(minute, "minute", 0, 59)),
        CronField(hour, _expand(hour, "hour", 0, 23)),
        CronField(day, _expand(day, "day", 1, 31)),
        CronField(month, _expand(month, "month", 1, 12, names=MONTHS)),
        CronField(weekday, frozenset(number % 7 for number in _expand(weekday, "weekday", 0, 7, names=WEEKDAYS))),
    )


def _expand(text: str, field: str, low: int, high: int, *, names: tuple[str, ...] = ()) -> frozenset[int]:
    values: set[int] = set()
    for part in text.split(","):
        match = _PART.fullmatch(part)
        if match is None:
            raise ValueError(
                f"its {field} is {text!r}, not *, a number, a range such as 1-5, a step such as */2, or a list of these"
            )
        if match["step"] and not match["all"] and not match["last"]:
            raise ValueError(f"its {field} is {text!r}: a step needs a range, such as {match['first']}-{high}/{match['step']}")
        highest = 6 if names == WEEKDAYS and match["all"] else high  # 7 is Sunday again
        first = low if match["all"] else _number(match["first"], field, low, high, names=names)
        last = highest if match["all"] else first if not match["last"] else _number(match["last"], field, low, high, names=names)
        step = int(match["step"] or 1)
        if first > last or step < 1:
            raise ValueError(f"its {field} is {text!r}, which holds no number: a range rises, in steps of at least 1")
        values.update(range(first, last + 1, step))
    return frozenset(values)


def _number(word: str, field: str, low: int, high: int, *, names: tuple[str, ...]) -> int:
    if word.isdecimal() and low <= int(word) <= high:
        return int(word)
    if word.lower() in names:
        return names.index(word.lower()) + low
    known = f", or {', '.join(names)}" if names else ""
    raise ValueError(f"its {field} has {word!r}, which is not a number from {low} to {high}{known}")
