"""`orchestrate stop` and the listeners of dispatchers, in separate processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from orchestrator.dispatch.shutdown import ECHO_S, StopListener
from orchestrator.errors import SpecError
from orchestrator.operations.stop import stop_sweep
from orchestrator.state.ledger import Role
from orchestrator.state.trial.records import TrialState
from tests.orchestrator.dispatch.loop.conftest import SWEEP, Bench

ROOT = Path(__file__).resolve().parents[4]

DISPATCH = """
import sys
from pathlib import Path
from orchestrator.state.home import Home
from orchestrator.state.ledger import Ledger, Role
from orchestrator.dispatch.shutdown import registered, stop_on_request
from tests.orchestrator.dispatch.loop.conftest import SWEEP, Bench, ScriptedLauncher, points, stop_when_asked

home = Home(Path(sys.argv[1]))
script = {"graceful": stop_when_asked, "stubborn": lambda job: -9 if True in job.stops else None}[sys.argv[2]]
ledger = Ledger(home.ledger_url)
with registered(home, ledger, SWEEP, Role.SWEEP) as me:
    dispatcher = Bench(home, ledger, me.owner).dispatcher(points("a", "b", "c"), ScriptedLauncher(script))
    with stop_on_request(dispatcher.request_stop, me, lambda text: print(text, flush=True)):
        sys.exit(130 if dispatcher.run().interrupted else 0)
"""

END = """
import sys, time
from pathlib import Path
from orchestrator.state.home import Home
from orchestrator.state.ledger import Ledger, Role
from orchestrator.dispatch.shutdown import interrupt_on_request, registered
from tests.orchestrator.dispatch.loop.conftest import SWEEP

home = Home(Path(sys.argv[1]))
with registered(home, Ledger(home.ledger_url), SWEEP, Role.SWEEP) as me, interrupt_on_request(me):
    try:
        print("waiting", flush=True)
        time.sleep(60)
    except KeyboardInterrupt:
        sys.exit(130)
"""

Start = Callable[[str], subprocess.Popen[str]]


def wait_until(is_so: Callable[[], bool]) -> None:
    """Wait at most a minute."""
    deadline_s = time.monotonic() + 60
    while not is_so():
        assert time.monotonic() < deadline_s
        time.sleep(0.02)


@pytest.fixture
def start(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """Start a process whose dispatcher runs two trials, which end as scripted; commands use the same home."""
    monkeypatch.setenv("ORCHESTRATE_HOME", str(bench.home.root))
    monkeypatch.delenv("ORCHESTRATE_STORAGE", raising=False)
    processes: list[subprocess.Popen[str]] = []

    def run(script: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", DISPATCH, str(bench.home.root), script]
        processes.append(subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True))
        wait_until(lambda: sum(row.state is TrialState.RUNNING for row in bench.ledger.states("abc").values()) == 2)
        return processes[-1]

    yield run
    for process in processes:
        process.kill()
        process.communicate()


def test_a_sweep_is_stopped_gracefully(bench: Bench, start: Start) -> None:
    """Its trials wait to be resumed; the next dispatcher is not stopped."""
    process = start("graceful")
    report = stop_sweep(SWEEP)
    assert (len(report.asked), report.left, report.exit_code) == (1, (), 0)
    assert process.wait(timeout=30) == 130
    assert {row.state for row in bench.ledger.states("abc").values()} == {TrialState.WAITING}
    with bench.ledger.roster.registered(bench.owner, SWEEP, Role.SWEEP):
        assert bench.ledger.roster.check_in(bench.owner) == 0


def test_now_kills_running_trials(bench: Bench, start: Start) -> None:
    """Without it the command waits for its timeout and names the dispatchers that are left."""
    process = start("stubborn")
    report = stop_sweep(SWEEP, timeout_s=0.5)
    assert ([row.owner for row in report.left], report.exit_code) == ([row.owner for row in report.asked], 1)
    assert len(report.left) == 1
    assert process.poll() is None
    assert stop_sweep(SWEEP, now=True).exit_code == 0
    assert process.wait(timeout=30) == 130
    assert bench.state_of("a") is TrialState.WAITING


def test_both_signals_together_are_one_stop(start: Start) -> None:
    """As systemd and the scheduler send them: running epochs continue; a later signal is a second request, and kills."""
    process = start("stubborn")
    for number in (signal.SIGTERM, signal.SIGINT):
        process.send_signal(number)
    assert process.stdout is not None
    assert "epochs end" in process.stdout.readline()
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(timeout=1.5 * ECHO_S)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=30) == 130


def test_where_nothing_runs_it_says_so(bench: Bench, start: Start) -> None:
    """Also after a dispatcher was killed; an unknown name is refused with the nearest known one."""
    process = start("graceful")
    process.kill()
    process.wait()
    report = stop_sweep(SWEEP)
    assert (report.asked, report.exit_code, report.render()) == ((), 0, f"{SWEEP}: nothing is running.")
    with pytest.raises(SpecError, match=f"Did you mean '{SWEEP}'"):
        stop_sweep("sweeep")


def test_on_this_machine_a_request_is_handled_immediately(bench: Bench) -> None:
    """A nudge makes the listener read at once; each request is handled once, also by a handler that is set later."""
    handled: list[str] = []
    roster = bench.ledger.roster
    with (
        bench.home.new_owner() as owner,
        roster.registered(owner.name, SWEEP, Role.SWEEP),
        StopListener(roster, owner, look_s=3600) as listener,
    ):
        wait_until(lambda: listener.num_looks == 1)
        roster.ask_to_stop([owner.name], 2)
        bench.home.nudge(owner.name)
        wait_until(lambda: listener.num_looks == 2)
        listener.set_handler(lambda: handled.append("stop"))
        bench.home.nudge(owner.name)
        wait_until(lambda: listener.num_looks == 3)
    assert handled == ["stop", "stop"]


@pytest.mark.parametrize("by", ["orchestrate stop", "SIGTERM"])
def test_the_wait_for_the_end_is_interrupted(bench: Bench, monkeypatch: pytest.MonkeyPatch, by: str) -> None:
    """While ensembles are evaluated or MLflow is awaited no epoch runs: a stop request is Ctrl-C."""
    monkeypatch.setenv("ORCHESTRATE_HOME", str(bench.home.root))
    monkeypatch.delenv("ORCHESTRATE_STORAGE", raising=False)
    bench.ledger.register(SWEEP, [("a", "one")])
    command = [sys.executable, "-c", END, str(bench.home.root)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "waiting\n"
        if by == "SIGTERM":
            process.terminate()
        else:
            assert stop_sweep(SWEEP, timeout_s=30).exit_code == 0
        assert process.wait(timeout=30) == 130


@pytest.mark.parametrize(
    "numbers", [(signal.SIGTERM,), (signal.SIGINT,), (signal.SIGINT, signal.SIGTERM), (signal.SIGTERM, signal.SIGINT)]
)
def test_a_sweep_that_is_being_planned_is_interrupted(tmp_path: Path, numbers: tuple[signal.Signals, ...]) -> None:
    """SIGTERM is Ctrl-C before any trial runs, and Ctrl-C works although a shell has its background process ignore it.

    A supervisor may send both.
    """
    (tmp_path / "s.yaml").write_text("base: {epochs: 1}\n", encoding="utf-8")
    line = 'trap "" INT; exec "$0" -m orchestrator.cli sweep s.yaml'
    environment = os.environ | {"ORCHESTRATE_HOME": str(tmp_path / "mlruns"), "ORCHESTRATE_SLOTS": str(tmp_path / "slots")}
    with subprocess.Popen(
        ["sh", "-c", line, sys.executable], cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        assert process.stderr.readline() == "reading s.yaml\n"
        for number in numbers:
            process.send_signal(number)
            time.sleep(0.02)
        try:
            assert process.wait(timeout=30) == 130
        finally:
            process.kill()
        assert "Traceback" not in process.stderr.read()
