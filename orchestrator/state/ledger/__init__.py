"""What all dispatchers of a sweep share: who owns which trial, who works on which sweep, and what a sweep comes to.

database.py   opens it: SQLite here, PostgreSQL when shared
waiting.py    a server that is away for a while
claims.py     trials: claims with leases, states, members of sweeps
roster.py     dispatchers, the wish that they stop, and the plan that a worker on another machine follows
"""

from orchestrator.state.ledger.claims import Ledger, LedgerRow
from orchestrator.state.ledger.dispatchers import DispatcherRow, Role, Roster
from orchestrator.state.ledger.reconnect import Reconnection

__all__ = ["DispatcherRow", "Ledger", "LedgerRow", "Reconnection", "Role", "Roster"]
