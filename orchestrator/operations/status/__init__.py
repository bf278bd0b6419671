"""`orchestrate status`: how sweeps stand, from ledger and trial folders alone; needs no server, torch or dispatcher.

reading.py   ledger, folders and locks -> the state of each trial and slot
pace.py      trials per hour and time left
report.py    what is printed
"""

from orchestrator.operations.status.report import StatusReport, read_status

__all__ = ["StatusReport", "read_status"]
