"""Estimates how much GPU memory a trial needs: from the peaks of similar trials and from what was too little before."""

from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass

from orchestrator.errors import TrialError
from orchestrator.launchers.base import UNKNOWN, MemoryEstimate
from orchestrator.state.home import Home
from orchestrator.state.trial.folder import TrialFolder
from orchestrator.state.trial.records import Event, TrialSpec


@dataclass(frozen=True)
class Terms:
    """How an attempt trains. accumulate, deviation: as in Attempt. more_than_mb: GPU memory that was too little."""

    accumulate: int = 1
    deviation: str | None = None
    more_than_mb: int | None = None


class MemoryEstimates:
    """Memory estimates for a sweep's trials. Used by one thread.

    The estimate is the largest peak of any trial of the same kind (see ``kind_of``), in whichever sweep it was measured.
    terms: of each trial's next attempt, by key.
    """

    def __init__(self, peaks: Iterable[tuple[Hashable, float]] = ()) -> None:
        self.terms: defaultdict[str, Terms] = defaultdict(Terms)
        self._peaks_mb: dict[Hashable, float] = {}
        self._kinds: dict[tuple[str, int], Hashable] = {}
        for kind, peak_mb in peaks:
            self._add(kind, peak_mb)

    def of(self, spec: TrialSpec) -> MemoryEstimate:
        """The estimate for a trial's next attempt on its current terms."""
        if (more_than_mb := self.terms[spec.key].more_than_mb) is not None:
            return MemoryEstimate(more_than_mb + 1)
        peak_mb = self._peaks_mb.get(self._kind(spec))
        return UNKNOWN if peak_mb is None else MemoryEstimate.of_peak(peak_mb)

    def record_epoch(self, spec: TrialSpec, event: Event) -> None:
        """Record the peak of a running attempt; on the CPU there is none."""
        if (peak_mb := event.facts.get("peak_memory_mb")) is not None:
            self._add(self._kind(spec), peak_mb)

    def _kind(self, spec: TrialSpec) -> Hashable:
        accumulate = self.terms[spec.key].accumulate
        known = (spec.configuration, accumulate)
        if known not in self._kinds:
            self._kinds[known] = kind_of(spec, accumulate)
        return self._kinds[known]

    def _add(self, kind: Hashable, peak_mb: float) -> None:
        self._peaks_mb[kind] = max(peak_mb, self._peaks_mb.get(kind, 0.0))


def kind_of(spec: TrialSpec, accumulate: int) -> Hashable:
    """Equal for trials with about the same memory use: same network, images per step, image size and optimizer.

    accumulate: number of parts of a batch.
    """
    train, data = spec.train, spec.data
    names = {"arch", "arch_options", "encoder", "input_size", "precision", "test_time_flips", "clip_grad_norm"}
    return (
        train.model_dump_json(include=names),
        -(-train.batch_size // accumulate),
        train.optimizer.name,
        train.ema is not None,
        spec.source_fingerprint,
        data.size,
    )


def read_peaks(home: Home) -> Iterator[tuple[Hashable, float]]:
    """Kind and peak of each trial that was completed on a GPU of this machine."""
    for path in home.trials.iterdir() if home.trials.is_dir() else ():
        folder = TrialFolder(path)
        try:
            result = folder.complete_result()
            device = result.facts.get("device") if result else None
            if result and isinstance(device, str) and not device.startswith("cpu"):
                yield kind_of(folder.spec(), folder.attempt().accumulate), float(result.facts["peak_memory_mb"])
        except (TrialError, KeyError):  # written by another version
            continue
