"""What all dispatchers of a sweep share: who owns which trial, who works on which sweep, and what a sweep comes to.

database.py   opens it: SQLite here, PostgreSQL when shared
claims.py     trials: claims with leases, states, members of sweeps
roster.py     dispatchers, the wish that they stop, and the plan that a worker on another machine follows
"""

from orchestrator.ledger.claims import Ledger, LedgerRow
from orchestrator.ledger.roster import DispatcherRow, Role, Roster

__all__ = ["DispatcherRow", "Ledger", "LedgerRow", "Role", "Roster"]
