"""Plan -> next configuration: the one room that knows Optuna.

build.py puts a search together · searches.py is what the dispatcher talks to · proposers.py chooses · study.py and records.py are
the record in Optuna, which storage.py opens · sampling.py translates the space · samplers.py and pruners.py build what Optuna
brings · pruning.py gives configurations up, by what they report and history.py reads · limits.py ends the search.
"""

from orchestrator.search.build import build_search, check_search, read_known
from orchestrator.search.history import FolderHistory
from orchestrator.search.search import StudySearch

__all__ = ["FolderHistory", "StudySearch", "build_search", "check_search", "read_known"]
