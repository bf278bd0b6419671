"""What all dispatchers of a sweep share: who owns which trial, who works on which sweep, and what a sweep comes to.

database.py   opens it: SQLite here, PostgreSQL when shared
waiting.py    a server that is away for a while
claims.py     trials: claims with leases, states, members of sweeps
roster.py     dispatchers, the wish that they stop, and the plan that a worker on another machine follows
"""

from orchestrator.ledger.claims import Ledger, LedgerRow
from orchestrator.ledger.roster import DispatcherRow, Role, Roster
from orchestrator.ledger.waiting import Patience

__all__ = ["DispatcherRow", "Ledger", "LedgerRow", "Patience", "Role", "Roster"]
