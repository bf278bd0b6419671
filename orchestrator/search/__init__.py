"""Plan -> next configuration: the one room that knows Optuna.

searches.py proposes and learns · study.py is the record in Optuna · sampling.py translates the space.
"""

from orchestrator.search.searches import PlannedSearch, SampledSearch, build_search, read_known

__all__ = ["PlannedSearch", "SampledSearch", "build_search", "read_known"]
