"""`orchestrate status`: how sweeps stand, from ledger and trial folders alone; needs no server, no torch, and no dispatcher.

reading.py   ledger + folders -> how each trial stands
pace.py      how fast it goes, and what that leaves
slots.py     which slots of this machine are in use
report.py    what is printed
"""

from orchestrator.operations.status.report import StatusReport, read_status

__all__ = ["StatusReport", "read_status"]
