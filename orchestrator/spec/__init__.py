"""Sweep file -> SweepSpec: the first room that a sweep passes through; needs pydantic and ruamel.yaml only."""

from orchestrator.spec.load import load_spec
from orchestrator.spec.model import BudgetSpec, FixedEnsemble, Parameter, ResourcesSpec, Row, SearchSpec, SweepSpec

__all__ = ["BudgetSpec", "FixedEnsemble", "Parameter", "ResourcesSpec", "Row", "SearchSpec", "SweepSpec", "load_spec"]
