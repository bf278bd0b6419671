"""Sweep file -> SweepSpec: the first step of every sweep; needs pydantic and ruamel.yaml only.

document.py     YAML and `--set` -> values, each with its line
cron.py         crontab lines
sections.py     sections that other packages take by themselves: pruner, retry, limits, keep, notify, schedule; Optuna's names
model.py        the whole file as pydantic models: SweepSpec
schema.py       which paths and types the models have
diagnostics.py  pydantic's errors -> lines for people
space.py        a point of the search space -> the configuration that it makes
load.py         all of it: reads, overrides, validates, and tries every choice
"""

from orchestrator.spec.load import load_spec
from orchestrator.spec.model import BudgetSpec, FixedEnsemble, Parameter, ResourcesSpec, Row, SearchSpec, SweepSpec

__all__ = ["BudgetSpec", "FixedEnsemble", "Parameter", "ResourcesSpec", "Row", "SearchSpec", "SweepSpec", "load_spec"]
