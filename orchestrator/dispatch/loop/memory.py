"""How much GPU memory a trial is going to take: by the peaks of others of its kind, and by what was too little for it before."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator

from orchestrator.dispatch.loop.retries import Terms
from orchestrator.errors import TrialError
from orchestrator.launchers.base import UNKNOWN, MemoryEstimate
from orchestrator.state.home import Home
from orchestrator.state.trial.folder import TrialFolder
from orchestrator.state.trial.records import Event, TrialSpec, TrialState


class Needs:
    """What is known of the needs of a sweep's trials. Used by one thread.

    Of trials of one kind (see ``kind_of``) the largest peak counts, whichever sweep it was measured in.
    """

    def __init__(self, peaks: Iterable[tuple[Hashable, float]] = ()) -> None:
        self._peaks_mb: dict[Hashable, float] = {}
        self._terms: dict[str, Terms] = {}
        self._kinds: dict[tuple[str, int], Hashable] = {}
        for kind, peak_mb in peaks:
            self._add(kind, peak_mb)

    def of(self, spec: TrialSpec) -> MemoryEstimate:
        """Of a trial's next attempt, on the terms last noted."""
        terms = self._terms.get(spec.key, Terms())
        if terms.more_than_mb is not None:
            return MemoryEstimate(terms.more_than_mb + 1)
        peak_mb = self._peaks_mb.get(self._kind(spec, terms.accumulate))
        return UNKNOWN if peak_mb is None else MemoryEstimate.of_peak(peak_mb)

    def note_terms(self, spec: TrialSpec, terms: Terms) -> None:
        """Take note of the terms of a trial's next attempt."""
        self._terms[spec.key] = terms

    def note_epoch(self, spec: TrialSpec, event: Event) -> None:
        """Take note of the peak of a running attempt, where it has one: on a GPU."""
        if (peak_mb := event.facts.get("peak_memory_mb")) is not None:
            self._add(self._kind(spec, self._terms.get(spec.key, Terms()).accumulate), peak_mb)

    def _kind(self, spec: TrialSpec, accumulate: int) -> Hashable:
        known = (spec.configuration, accumulate)
        if known not in self._kinds:
            self._kinds[known] = kind_of(spec, accumulate)
        return self._kinds[known]

    def _add(self, kind: Hashable, peak_mb: float) -> None:
        self._peaks_mb[kind] = max(peak_mb, self._peaks_mb.get(kind, 0.0))


def kind_of(spec: TrialSpec, accumulate: int) -> Hashable:
    """Equal for trials that take about as much memory: by network, pictures at a time and their size, optimizer's state.

    accumulate: parts into which a batch is cut.
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
    """Kind and peak of each trial of this machine that was completed on a GPU."""
    for path in home.trials.iterdir() if home.trials.is_dir() else ():
        folder = TrialFolder(path)
        try:
            result = folder.result()
            if result is None or result.state is not TrialState.COMPLETE or not _is_of_gpu(result.facts.get("device")):
                continue
            yield kind_of(folder.spec(), folder.attempt().accumulate), float(result.facts["peak_memory_mb"])
        except (TrialError, KeyError):  # of another version: it tells nothing
            continue


def _is_of_gpu(device: object) -> bool:
    """By a device's name in the facts of a result."""
    return isinstance(device, str) and not device.startswith("cpu")
