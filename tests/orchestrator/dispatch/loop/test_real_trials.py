"""The dispatcher with the local launcher and real trainings."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from orchestrator.launchers.local import LocalLauncher
from orchestrator.state.trial.records import TrialSpec, TrialState
from tests.orchestrator.dispatch.loop.conftest import Bench, Point


def test_real_trials_run_side_by_side(
    bench: Bench, local_launcher: LocalLauncher, make_spec: Callable[..., TrialSpec], tiny_data: Path
) -> None:
    """Two train, one that cannot be built fails, and no process is left."""
    trials = [make_spec(seed=0), make_spec(seed=1), make_spec(arch_options={"decoder_merge_policy": "none"})]
    proposals = [Point(one.configuration + str(one.seed), (one,)) for one in trials]
    outcome = bench.run(proposals, local_launcher, data_folder=tiny_data)
    assert [trial.state for trial in outcome.trials] == [TrialState.COMPLETE, TrialState.COMPLETE, TrialState.FAILED]
    pids = [event.facts["pid"] for one in trials for event in bench.folder(one.key).events()[0] if "pid" in event.facts]
    assert len(pids) == 3
    assert not any(psutil.pid_exists(pid) for pid in pids)


SWEEPING = """
import sys
from pathlib import Path
from types import SimpleNamespace
from orchestrator.dispatch.loop.dispatcher import Dispatcher
from orchestrator.dispatch.loop.ports import Policy, Ports, Session
from orchestrator.state.home import Home
from orchestrator.launchers.local import LocalLauncher
from orchestrator.launchers.worker.contract import Slot
from orchestrator.state.ledger import Ledger
from orchestrator.state.trial.records import TrialSpec
from tests.orchestrator.dispatch.loop.conftest import Recorder

root, data, *texts = sys.argv[1:]
home = Home(Path(root))
points = [SimpleNamespace(id=str(index), trial=TrialSpec.model_validate_json(text)) for index, text in enumerate(texts)]
search = SimpleNamespace(
    propose=lambda: points.pop(0) if points else None,
    trials_of=lambda point: [SimpleNamespace(spec=point.trial, round=0, data_folder=Path(data), label=None)],
    tell=lambda *values, **why: None, reconcile=lambda: None, may_begin=lambda: True,
    report=lambda *seen: False, report_end=lambda *seen: False, spend=lambda seconds: None, close=lambda: None,
)
tracker = SimpleNamespace(label=lambda *seen: None, mirror=lambda *seen, **flags: None)
with home.new_owner() as owner:
    launcher = LocalLauncher([Slot("cpu-0", "", 1)], locks=home.root / "slots")
    session = Session("sweep", owner.name, home, Ledger(home.ledger_url))
    Dispatcher(session, Ports(search, launcher, tracker, Recorder()), Policy()).run()
    launcher.close()
"""


@pytest.mark.slow
def test_a_killed_dispatchers_sweep_is_finished_by_the_next(
    bench: Bench, local_launcher: LocalLauncher, make_spec: Callable[..., TrialSpec], tiny_data: Path
) -> None:
    """After kill -9 during the second trial: the first does not run again, the second resumes from its checkpoint."""
    trials = [make_spec(seed=0), make_spec(seed=1, epochs=10_000)]
    command = [sys.executable, "-c", SWEEPING, str(bench.home.root), str(tiny_data), *(one.model_dump_json() for one in trials)]
    process = subprocess.Popen(command, start_new_session=True)
    second = bench.folder(trials[1].key)
    while not (second.path / "last.pt").exists():
        assert process.poll() is None
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    trained = max(event.epoch or 0 for event in second.events()[0])

    def stop_after_an_epoch(seconds: float) -> None:
        time.sleep(0.02)
        if len([event for event in bench.monitor.seen if event[0] == "epoch"]) > 0:
            dispatcher.request_stop()

    dispatcher = bench.dispatcher(
        [Point(one.configuration + str(one.seed), (one,)) for one in trials],
        local_launcher,
        data_folder=tiny_data,
        sleep=stop_after_an_epoch,
    )
    outcome = dispatcher.run()
    assert [trial.state for trial in outcome.trials] == [TrialState.CACHED, TrialState.WAITING]
    attempts = [event for event in second.events()[0] if event.kind == "attempt_started"]
    assert [event.attempt for event in attempts] == [1, 2]
    resumed = next(event for event in second.events()[0] if event.kind == "epoch" and event.attempt == 2)
    assert 1 < (resumed.epoch or 0) <= trained + 1
    assert len([event for event in bench.folder(trials[0].key).events()[0] if event.kind == "attempt_started"]) == 1
    assert not [row for row in bench.ledger.states([one.key for one in trials]).values() if row.state is TrialState.RUNNING]
