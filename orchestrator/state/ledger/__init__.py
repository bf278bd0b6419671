"""The database that all dispatchers of a sweep share.

reconnect.py     a server that is unreachable for a while
database.py      opens SQLite or PostgreSQL
dispatchers.py   dispatchers, stop requests, and the plans for workers that join
claims.py        trials: claims with leases, states, members of sweeps
"""

from orchestrator.state.ledger.claims import Ledger, LedgerRow
from orchestrator.state.ledger.dispatchers import DispatcherRow, Role, Roster
from orchestrator.state.ledger.reconnect import Reconnection

__all__ = ["DispatcherRow", "Ledger", "LedgerRow", "Reconnection", "Role", "Roster"]
