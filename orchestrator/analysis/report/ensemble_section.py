"""The ensemble that `best-ensemble` chose last for a sweep -> a section of the page."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree.ElementTree import Element

from pydantic import BaseModel, ValidationError

from orchestrator.analysis.report.html import element, make_rows
from orchestrator.analysis.report.terminal import write_gain, write_interval, write_short
from orchestrator.errors import TrackingError
from orchestrator.tracking.tags import Tag

if TYPE_CHECKING:
    from orchestrator.tracking.reader.runs import RunReader

Pair = tuple[float, float]


class ChosenStep(BaseModel, frozen=True):
    """The cross-fitted value of up to ``k`` members."""

    k: int
    miou: float
    ci95: Pair
    gain_over_best_single: float
    gain_ci95: Pair


class ClassGain(BaseModel, frozen=True):
    """In the IoU of one class, over the best single trial."""

    gain: float
    ci95: Pair


class Chosen(BaseModel, frozen=True):
    """The fields of ``best-ensemble --json`` that the page shows; others are ignored."""

    members: tuple[str, ...]
    names: tuple[str, ...]
    weights: tuple[float, ...]
    miou: float
    ci95: Pair
    gain_over_best_single: float
    gain_ci95: Pair
    gain_probability: float
    optimism: float
    oracle_miou: float
    pays_up_to: int
    trajectory_cross_fitted: tuple[ChosenStep, ...]
    class_gains: dict[str, ClassGain]


def load_chosen(reader: RunReader, sweep: str, *, cache: Path) -> Chosen | None:
    """Read its document; None where there is none, or an earlier version wrote it.

    Raises:
        TrackingError: the server cannot be used.
    """
    runs = [run for run in reader.list_ensembles([sweep]) if Tag.ROW not in run.tags and run.state == "COMPLETE"]
    last = max(runs, key=lambda run: float(run.tags.get(Tag.CHOSEN, run.start_s)), default=None)
    path = None if last is None else reader.find_file(last, "ensemble.json", cache / "files", from_folder=False)
    if path is None:
        return None
    try:
        return Chosen.model_validate_json(path.read_bytes())
    except OSError as error:
        raise TrackingError(f"{path}: cannot be read ({error}). Remove it, so that it is fetched again.") from error
    except ValidationError:
        return None


def draw_chosen(chosen: Chosen) -> list[Element]:
    """Its section: members, value by number of members, and the gain in each class."""
    members = [
        [name, key, f"{weight:.3f}"] for name, key, weight in zip(chosen.names, chosen.members, chosen.weights, strict=True)
    ]
    steps = [
        [str(step.k), write_short(step.miou), write_interval(step.ci95), write_gain(step.gain_over_best_single, step.gain_ci95)]
        for step in chosen.trajectory_cross_fitted
    ]
    classes = [[name, write_gain(gain.gain, gain.ci95)] for name, gain in chosen.class_gains.items()]
    return [
        element("h2", "Chosen ensemble"),
        element("p", _judge(chosen), class_="soft"),
        make_rows(("member", "key", "weight"), members),
        make_rows(("up to", "mIoU", "95 % CI", "gain over the best single trial"), steps),
        make_rows(("class", "gain over the best single trial"), classes),
    ]


def _judge(chosen: Chosen) -> str:
    low, high = chosen.gain_ci95
    verdict = "a significant gain" if low > 0 else "significantly worse" if high < 0 else "no evidence of a gain"
    gain = write_gain(chosen.gain_over_best_single, chosen.gain_ci95)
    return (
        f"Cross-fitted mIoU {write_short(chosen.miou)} ({write_interval(chosen.ci95)}), in sample {write_short(chosen.optimism)} "
        f"higher. Gain over the best single trial {gain}: {verdict} (above 0 in {chosen.gain_probability:.0%} of the resamples). "
        f"Additional members improve the mIoU significantly up to k = {chosen.pays_up_to}. "
        f"The right member at each pixel would score {write_short(chosen.oracle_miou)}."
    )
