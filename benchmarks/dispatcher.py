"""CPU time that the dispatcher itself costs a trial, early and late in a sweep: attempts that do nothing, all else as it is.

    python benchmarks/dispatcher.py [--trials N] [--slots N]

Real ledger (SQLite), real trial folders, real loop; the attempts leave a result and end at once. What a trial costs must not grow
with the number of trials before it: late / early is to stay near 1.

Figures: 600 trials on a core of an AMD EPYC that other work shared: 6.75 ms a trial, late / early 0.92.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from orchestrator.dispatcher import Dispatcher
from orchestrator.home import Home
from orchestrator.launchers.base import UNKNOWN, JobExit, Need
from orchestrator.ledger import Ledger
from orchestrator.trial import TrialFolder, TrialResult, TrialSpec, TrialState
from trainers.config import DataConfig, TrainConfig


@dataclass
class NoWork:
    """An attempt that is complete when it is first looked at."""

    folder: Path
    has_ended: bool = False

    def poll(self) -> JobExit:
        if not self.has_ended:
            trial, times = TrialFolder(self.folder), {"started_s": 1.0, "ended_s": 2.0}
            attempt = trial.attempt().number
            metrics = {"val/miou": 0.5}
            trial.write_result(
                TrialResult(key=self.folder.name, state=TrialState.COMPLETE, attempt=attempt, metrics=metrics, **times)
            )
            self.has_ended = True
        return JobExit(0)

    def stop(self, *, force: bool = False) -> None:
        """It has ended."""


class NoWorkLauncher:
    """Some slots for attempts that do nothing."""

    def __init__(self, num_slots: int) -> None:
        self._num_slots = num_slots
        self._jobs: list[NoWork] = []

    def free_slots(self, need: Need = UNKNOWN) -> int:
        self._jobs = [job for job in self._jobs if not job.has_ended]
        return self._num_slots - len(self._jobs)

    def fits(self, need: Need) -> bool:
        return False

    def launch(self, folder: Path, need: Need = UNKNOWN) -> NoWork:
        self._jobs.append(NoWork(folder))
        return self._jobs[-1]

    def close(self) -> None:
        """Nothing runs."""


def make_trial(index: int) -> TrialSpec:
    name = f"t{index}"
    train, data = TrainConfig(), DataConfig()
    return TrialSpec(key=name, configuration=name, name=name, train=train, data=data, seed=0, source_fingerprint="f")


def run_sweep(root: Path, num_trials: int, num_slots: int) -> list[float]:
    """CPU seconds between each proposal and the next."""
    points = iter([SimpleNamespace(id=str(index), trial=make_trial(index)) for index in range(num_trials)])
    proposed_s: list[float] = []

    def propose() -> Any:
        proposed_s.append(time.process_time())
        return next(points, None)

    home = Home(root)
    with home.become_owner() as owner:
        Dispatcher(
            sweep="benchmark",
            search=SimpleNamespace(
                propose=propose,
                tell=lambda *told, **why: None,
                report=lambda *seen: False,
                report_end=lambda *seen: False,
                spend=lambda seconds: None,
                reconcile=lambda: None,
                close=lambda: None,
            ),
            launcher=NoWorkLauncher(num_slots),
            tracker=SimpleNamespace(mirror=lambda *seen, **flags: None, close=lambda timeout_s: []),
            ledger=Ledger(home.ledger_url),
            home=home,
            owner=owner.name,
            trials_of=lambda point: [point.trial],
            data_folder_of=lambda spec: home.data,
        ).run()
    return [after - before for before, after in itertools.pairwise(proposed_s)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--slots", type=int, default=4)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        took_s = run_sweep(Path(folder), options.trials, options.slots)
    third = len(took_s) // 3
    early, late = (1000 * sum(part) / len(part) for part in (took_s[:third], took_s[-third:]))
    print(f"{options.trials} trials: {1000 * sum(took_s) / len(took_s):.2f} ms of CPU time a trial")
    print(f"first third {early:.2f} ms, last third {late:.2f} ms, late / early {late / early:.2f}")


if __name__ == "__main__":
    main()
