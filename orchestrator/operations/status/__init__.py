"""`orchestrate status`: how sweeps stand, from ledger and trial folders alone; needs no server, torch or dispatcher.

reading.py   ledger and folders -> the state of each trial
pace.py      trials per hour and time left
slots.py     which slots of this machine are in use
report.py    what is printed
"""

from orchestrator.operations.status.report import StatusReport, read_status

__all__ = ["StatusReport", "read_status"]
