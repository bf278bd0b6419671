"""Lays a trial's folder out for an attempt, unless it holds the trial's end already."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from orchestrator.exits import Ending, find_unentered
from orchestrator.ledger import Ledger
from orchestrator.needs import Needs
from orchestrator.retries import Retries, Terms
from orchestrator.spec.keep import KeepSpec
from orchestrator.spec.limits import LimitsSpec
from orchestrator.takeovers import Takeovers
from orchestrator.trial import Attempt, TrialFolder, TrialSpec


@dataclass(frozen=True)
class Layout:
    """What all attempts of a dispatcher have in common. data_folder_of: where a trial's prepared data lies on this machine."""

    ledger: Ledger
    retries: Retries
    needs: Needs
    data_folder_of: Callable[[TrialSpec], Path]
    limits: LimitsSpec
    keep: KeepSpec
    takeovers: Takeovers

    def prepare(self, spec: TrialSpec, folder: TrialFolder, attempt: int) -> Ending | None:
        """Make the folder ready for a claimed attempt; returns the end that lies in it and that the ledger did not know.

        Raises:
            TrialError: the folder is another trial's.
            DataError: the trial's data cannot be used.
        """
        folder.create(spec)
        ending = find_unentered(self.ledger, folder, spec.key)
        if ending is not None and not (ending := self.retries.reconsider(spec, folder, ending)).is_retry:
            return ending
        folder.discard_result()
        origin = self.takeovers.enter(spec, folder)
        terms = self.note_terms(spec, folder)
        folder.write_attempt(
            Attempt(
                number=attempt,
                data_folder=str(self.data_folder_of(spec)),
                accumulate=terms.accumulate,
                deviation=terms.deviation,
                silence_s=self.limits.silence_s,
                checkpoint_s=self.limits.checkpoint_s,
                keep_u16=self.keep.predictions == "u16",
                keep_flips=self.keep.flips,
                origin=origin,
            )
        )
        return None

    def note_terms(self, spec: TrialSpec, folder: TrialFolder) -> Terms:
        """The terms of a trial's next attempt, which are taken note of for its need."""
        terms = self.retries.choose_terms(spec, folder.events()[0])
        self.needs.note_terms(spec, terms)
        return terms
