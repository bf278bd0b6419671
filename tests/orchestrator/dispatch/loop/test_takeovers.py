"""Trials that ran on another machine: their checkpoints arrive before they are claimed, and other trials run meanwhile."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from orchestrator.dispatch.loop.ports import Session
from orchestrator.dispatch.loop.takeover import Takeovers
from orchestrator.errors import TrackingError
from orchestrator.state.trial.checkpoint import Fetched, find_epoch
from orchestrator.state.trial.folder import TrialFile
from orchestrator.state.trial.records import Event, TrialState
from tests.orchestrator.dispatch.loop.conftest import (
    SWEEP,
    Bench,
    Planned,
    ScriptedJob,
    ScriptedLauncher,
    claim_as,
    complete,
    points,
    spec,
    states_of,
)
from tests.orchestrator.state.trial.test_checkpoint import train

ELSEWHERE = "another-machine:1:1"


@dataclass
class Source:
    """A server with the checkpoint of an epoch, which answers when the test allows it."""

    epoch: int | None
    may_answer: threading.Event = field(default_factory=threading.Event)
    asked: list[tuple[str, int]] = field(default_factory=list)

    def fetch(self, key: str, target: Path, *, after: int) -> Fetched:
        self.asked.append((key, after))
        self.may_answer.wait(10)
        if self.epoch is None or self.epoch <= after:
            return Fetched(None, "it has none that is later")
        for name in (TrialFile.CHECKPOINT, TrialFile.WEIGHTS):
            (target / name).write_text(f"of epoch {self.epoch}")
        event = Event(kind="epoch", time_s=1.0, attempt=1, epoch=self.epoch, metrics={"val/miou": 0.25})
        (target / TrialFile.PROGRESS).write_text(event.model_dump_json(exclude_defaults=True) + "\n")
        return Fetched(self.epoch, f"resumes from epoch {self.epoch}")


def release_from_another_machine(bench: Bench, key: str = "a") -> None:
    """Another machine had the trial and has released it."""
    claim_as(bench, key, ELSEWHERE)
    bench.ledger.release(key, ELSEWHERE)


def test_the_checkpoint_arrives_before_the_attempt_and_others_run_meanwhile(bench: Bench) -> None:
    """Only the trial of the other machine waits; its attempt records where it starts."""
    release_from_another_machine(bench)
    source = Source(7)
    seen: list[tuple[str, int, str | None]] = []

    def script(job: ScriptedJob) -> int:
        if job.folder.name == "b":
            source.may_answer.set()
        seen.append((job.folder.name, find_epoch(job.trial), job.trial.attempt().origin))
        return complete(job)

    outcome = bench.run(points("a", "b"), ScriptedLauncher(script, num_slots=1), open_checkpoints=lambda: source)
    assert states_of(outcome) == {"a": TrialState.COMPLETE, "b": TrialState.COMPLETE}
    assert seen == [("b", 0, None), ("a", 7, "resumes from epoch 7")]
    assert source.asked == [("a", 0)]
    assert next(event.epoch for event in bench.folder("a").events()[0] if event.kind == "epoch") == 7
    assert list((bench.home.cache / "checkpoints").iterdir()) == []


@pytest.mark.parametrize(("here", "there", "resumed"), [(3, 7, 7), (9, 7, 9)])
def test_the_later_of_two_checkpoints_wins(bench: Bench, here: int, there: int, resumed: int) -> None:
    """Of the one on this machine and the one that another machine mirrored later."""
    bench.folder("a").create(spec("a"))
    train(bench.folder("a"), here)
    release_from_another_machine(bench)
    source = Source(there)
    source.may_answer.set()
    seen: list[int] = []

    def script(job: ScriptedJob) -> int:
        seen.append(find_epoch(job.trial))
        return complete(job)

    bench.run(points("a"), ScriptedLauncher(script), open_checkpoints=lambda: source)
    assert (seen, source.asked) == ([resumed], [("a", here)])


def test_a_trial_of_this_machine_asks_no_server(bench: Bench) -> None:
    """New, or tried only here."""
    source = Source(7)
    launcher = ScriptedLauncher(lambda job: -9 if len(launcher.jobs) == 1 else complete(job), num_slots=1)
    [trial] = bench.run(points("a"), launcher, open_checkpoints=lambda: source).trials
    assert (trial.state, trial.attempts, source.asked) == (TrialState.COMPLETE, 2, [])


def test_without_its_checkpoint_a_trial_starts_from_scratch(bench: Bench) -> None:
    """If there is none, or after an unexpected error of the server; the attempt records why."""
    release_from_another_machine(bench, "a")
    release_from_another_machine(bench, "b")
    source = Source(None)
    source.may_answer.set()
    bench.run(points("a"), ScriptedLauncher(complete), open_checkpoints=lambda: source)
    assert bench.folder("a").attempt().origin == "starts from scratch: it has none that is later"

    def fail() -> Source:
        raise RuntimeError("no")

    bench.run(points("b"), ScriptedLauncher(complete), open_checkpoints=fail)
    assert bench.folder("b").attempt().origin == "starts from scratch: no checkpoint could be fetched: RuntimeError: no"


def test_the_wait_for_a_server_is_limited(bench: Bench) -> None:
    """Then the trial starts from scratch."""

    def refuse() -> Source:
        raise TrackingError("it does not answer")

    release_from_another_machine(bench)
    takeovers = Takeovers(Session(SWEEP, bench.owner, bench.home, bench.ledger), refuse, patience_s=0.0)
    assert takeovers.must_wait(Planned(spec("a")), bench.folder("a"))
    deadline_s = time.monotonic() + 10
    while not (arrived := takeovers.take_arrived()):
        assert time.monotonic() < deadline_s
        time.sleep(0.01)
    assert [trial.spec.key for trial in arrived] == ["a"]
    assert not takeovers.must_wait(Planned(spec("a")), bench.folder("a"))
    bench.folder("a").create(spec("a"))
    said = takeovers.enter(spec("a"), bench.folder("a"))
    assert said == "starts from scratch: the tracking server did not answer: it does not answer"
    takeovers.close()
