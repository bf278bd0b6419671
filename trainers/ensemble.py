"""Where models that were exported before 2026-11-29 look for their reader; it lives in trainers.prediction.ensemble now."""

from trainers.prediction.ensemble import Ensemble, read_members

__all__ = ["Ensemble", "read_members"]
