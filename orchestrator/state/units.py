"""Durations, sizes and numbers of things, written for people."""


def format_duration(seconds: float) -> str:
    """As ``40 s``, ``12 min``, ``3 h 20 min`` or ``2 d 4 h``."""
    minutes = round(seconds / 60)
    if minutes < 2:
        return f"{seconds:.0f} s"
    if minutes < 60:
        return f"{minutes} min"
    hours = minutes // 60
    return f"{hours} h {minutes % 60} min" if hours < 48 else f"{hours // 24} d {hours % 24} h"


def format_gb(amount: float) -> str:
    """As ``0.0009 GB``, ``12.5 GB`` or ``1840 GB``."""
    return f"{amount:.3g} GB" if amount < 1000 else f"{amount:.0f} GB"


def format_bytes(num_bytes: int) -> str:
    """As ``820 bytes``, ``3.4 MB`` or ``12.5 GB``, in steps of 1000."""
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if num_bytes >= size:
            return f"{num_bytes / size:.1f} {unit}"
    return f"{num_bytes} bytes"


def format_count(number: int, noun: str) -> str:
    """As ``1 trial`` or ``2 trials``."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
