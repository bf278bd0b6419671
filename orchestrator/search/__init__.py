"""Plan -> next configuration: the one package that imports Optuna.

options.py      checks options of samplers and pruners against Optuna, before anything runs
storage.py      opens the studies' storage: a journal file or a database
study_trial.py  what an Optuna trial holds about a configuration
study.py        the sweep's record in Optuna: one trial per configuration
sampling.py     the space as Optuna's distributions, and its samplers
proposers.py    which configuration comes next: in the plan's order, or by a sampler; budgets and the stop rule
pruning.py      reports of running trials -> whether their configuration is pruned
search.py       what the dispatcher uses: all of it together, built from spec + plan; and the study's name
"""

from orchestrator.search.options import check_search
from orchestrator.search.pruning import read_epochs
from orchestrator.search.search import StudySearch, build_search, read_known

__all__ = ["StudySearch", "build_search", "check_search", "read_epochs", "read_known"]
