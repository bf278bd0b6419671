"""The dispatcher's own cost per trial, early and late in a sweep, and the lag of the MLflow mirror.

    python benchmarks/dispatcher.py [--trials N] [--slots N]

Runs a whole `orchestrate sweep`: file, plan, Optuna journal, ledger, trial folders, loop and mirror to MLflow (SQLite). Only the
attempts do nothing: each writes a result and ends at once. Time is the CPU time of the dispatcher's thread between two launches;
memory is that of the whole process. Neither may grow with the number of finished trials. The mirror runs in its own thread; the
sweep waits two minutes for it at the end. The last line prints how many runs it had sent by then, and its time per run.

Results:
2026-11-22, AMD EPYC, 2 cores, little other load: 2,000 trials in 67 s, 9.73 ms per trial, tenths of the sweep 9.2 to 10.7, last /
first 1.06; memory 307 MB after 200 trials, 331 after 2,000. 1,702 runs were in MLflow after 191 s, 112 ms each. With four other
busy processes 10.51 ms. One parameter with 2,000 choices instead of a grid of three, under load: 17.0 ms, growing from 14.0 to
21.0, and 18 MB per 200 trials, because Optuna keeps and compares all choices with each trial.
2026-11-23, the same machine, no other load: 2,000 trials in 58 s, but 13.21 ms per trial, tenths 11.2 to 16.1, last / first 1.23;
303 to 332 MB; 1,724 runs after 181 s, 105 ms each. The machine had become slower. All results so far include the benchmark's own
work (results, reading memory). Without that, with the ledger's statements built once, a cheaper lock of Optuna's journal and one
of two queries of all trials removed: 2,000 trials in 44 s, 8.30 ms per trial, tenths 7.4 to 9.1, last / first 0.97; 302 to 330
MB; all 2,000 runs after 164 s, 82 ms each. Old and new code alternating, 600 trials each, both without the benchmark's own work:
before 10.30 and 12.85, now 8.62 and 7.46. Three hours later, after further changes: 600 trials 9.80 to 10.40 in four runs, equal
for the morning's and the new code; 2,000 trials 8.79 ms, tenths 7.9 to 10.0, last / first 0.82, 300 to 330 MB, 1,756 runs after
169 s, 96 ms each.
"""

from __future__ import annotations

import argparse
import itertools
import os
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

from orchestrator.dispatch.run import run_sweep
from orchestrator.launchers.base import UNKNOWN, JobExit, MemoryEstimate, SlotRequest
from orchestrator.launchers.choose import LAUNCHERS
from orchestrator.state.home import Home
from orchestrator.state.trial.folder import TrialFolder
from orchestrator.state.trial.records import TrialResult, TrialState
from orchestrator.tracking.location import TrackingLocation
from orchestrator.tracking.reader.runs import RunReader

SWEEP = """
name: nothing
data: {{source: synthetic, synthetic: {{num_images: 40, height: 32, width: 32}}}}
base: {{epochs: 1}}
search: {{method: grid, space: {{optimizer.lr: {rates}, batch_size: [2, 4, 8, 16], epochs: [1, 2, 3, 4, 5]}}}}
"""


@dataclass
class NoWork:
    """An attempt that completes at its first poll."""

    folder: Path
    has_ended: bool = False

    def poll(self) -> JobExit:
        if not self.has_ended:
            began_s = time.thread_time()
            trial, now_s = TrialFolder(self.folder), time.time()
            result = TrialResult(
                key=self.folder.name,
                state=TrialState.COMPLETE,
                attempt=trial.attempt().number,
                metrics={"val/miou": 0.5},
                started_s=now_s - 1,
                ended_s=now_s,
            )
            trial.write_result(result)
            self.has_ended = True
            NoWorkLauncher.last.benchmark_s += time.thread_time() - began_s
        return JobExit(0)

    def stop(self, *, force: bool = False) -> None:
        """Do nothing: it has ended."""


class NoWorkLauncher:
    """Slots for attempts that do nothing; records the process's CPU time and memory at each launch.

    benchmark_s: CPU time of measuring and of writing results, which is not the dispatcher's work.
    """

    last: NoWorkLauncher

    def __init__(self, asked: SlotRequest) -> None:
        self._num_slots = asked.num_slots or 1
        self._jobs: list[NoWork] = []
        self.benchmark_s = 0.0
        self.cpu_s: list[float] = []
        self.memory_mb: list[float] = []
        self.launched_s: list[float] = []
        NoWorkLauncher.last = self

    def free_slots(self, need: MemoryEstimate = UNKNOWN) -> int:
        self._jobs = [job for job in self._jobs if not job.has_ended]
        return self._num_slots - len(self._jobs)

    def launch(self, folder: Path, need: MemoryEstimate = UNKNOWN) -> NoWork:
        began_s = time.thread_time()
        self.cpu_s.append(began_s - self.benchmark_s)
        self.launched_s.append(time.monotonic())
        self.memory_mb.append(psutil.Process().memory_info().rss / 1e6)
        self.benchmark_s += time.thread_time() - began_s
        self._jobs.append(NoWork(folder))
        return self._jobs[-1]

    def close(self) -> None:
        """Do nothing: nothing runs."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=2000, help="a multiple of 20")
    parser.add_argument("--slots", type=int, default=4)
    options = parser.parse_args()
    LAUNCHERS["nothing"] = NoWorkLauncher
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        file = Path("nothing.yaml")
        file.write_text(SWEEP.format(rates=[(index + 1) * 1e-5 for index in range(options.trials // 20)]))
        started_s = time.monotonic()
        report = run_sweep(file, overrides=[], launcher="nothing", slots=options.slots)
        mirror_s = time.monotonic() - started_s
        assert len(report.trials) == options.trials
        assert report.exit_code == 0
        runs = RunReader(TrackingLocation.of(Home.from_environment())).list_runs(["nothing"])
        num_mirrored = sum(run.state == TrialState.COMPLETE for run in runs)
    launcher = NoWorkLauncher.last
    took_ms = [1000 * (after - before) for before, after in itertools.pairwise(launcher.cpu_s)]
    tenth = len(took_ms) // 10
    tenths = [sum(took_ms[i * tenth : (i + 1) * tenth]) / tenth for i in range(10)]
    memory = [launcher.memory_mb[min(i * tenth, len(took_ms))] for i in range(11)]
    print(f"{options.trials} trials: {sum(took_ms) / len(took_ms):.2f} ms of the dispatcher's CPU time per trial")
    print("each tenth, ms:    ", " ".join(f"{value:6.2f}" for value in tenths), f"  last / first {tenths[-1] / tenths[0]:.2f}")
    print("resident memory, MB:", " ".join(f"{value:6.0f}" for value in memory))
    trials_s = launcher.launched_s[-1] - launcher.launched_s[0]
    each_ms = 1000 * mirror_s / num_mirrored
    print(f"trials took {trials_s:.0f} s; {num_mirrored} were in MLflow after {mirror_s:.0f} s, {each_ms:.0f} ms each")


if __name__ == "__main__":
    main()
