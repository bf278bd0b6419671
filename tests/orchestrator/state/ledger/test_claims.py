"""The ledger: claims, leases and states; any interleaving leaves each trial with at most one owner."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import tempfile
import threading
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from orchestrator.errors import OrchestrateError, TrackingError
from orchestrator.state.ledger import Ledger
from orchestrator.state.trial.records import TrialState
from tests.orchestrator.clock import Clock


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A fresh database of each kind."""
    return f"sqlite:///{tmp_path}/ledger.db" if request.param == "sqlite" else request.getfixturevalue("postgres").create()


@pytest.fixture
def ledger(url: str, clock: Clock) -> Iterator[Ledger]:
    """A ledger with trials a, b and c in sweep s, a also in sweep t."""
    ledger = Ledger(url, clock=clock, lease_s=60)
    ledger.register("s", [("a", "one"), ("b", "one"), ("c", "two")])
    ledger.register("t", [("a", "one")])
    yield ledger
    ledger.close()


def state_of(ledger: Ledger, key: str, sweep: str | None = None) -> TrialState:
    """One trial's state, as a sweep sees it or as it is."""
    return ledger.states([key], sweep)[key].state


def test_sweeps_are_listed(ledger: Ledger) -> None:
    """Each once, in the order of their names."""
    assert ledger.sweeps() == ["s", "t"]


def test_a_claim_excludes_others(ledger: Ledger) -> None:
    """The second claimant gets nothing, and nobody gets an unknown trial."""
    assert ledger.claim("a", "s", "me") == 1
    assert ledger.claim("a", "s", "you") is None
    assert ledger.claim("a", "t", "me") is None
    assert ledger.claim("unknown", "s", "me") is None
    row = ledger.states(["a", "unknown"])["a"]
    assert (row.state, row.owner, row.attempt, row.lease_expires_s, row.sweep) == (TrialState.RUNNING, "me", 1, 1060, "s")


def test_an_expired_lease_can_be_taken_over(ledger: Ledger, clock: Clock) -> None:
    """An owner that does not renew loses the trial, learns so, and can no longer end it."""
    ledger.claim("a", "s", "me")
    clock.now_s += 60.5
    assert ledger.claim("a", "s", "you") == 2
    assert ledger.renew("me", ["a"]) == ["a"]
    assert not ledger.finish("a", "me", TrialState.COMPLETE)
    assert not ledger.release("a", "me")
    assert ledger.finish("a", "you", TrialState.COMPLETE)


def test_a_renewed_lease_holds(ledger: Ledger, clock: Clock) -> None:
    """A lease is renewed from now on; trials that were never held are reported as lost."""
    ledger.claim("a", "s", "me")
    clock.now_s += 59
    assert ledger.renew("me", ["a", "b"]) == ["b"]
    clock.now_s += 59
    assert ledger.claim("a", "s", "you") is None


def test_a_released_trial_waits_and_keeps_count(ledger: Ledger) -> None:
    """Somebody else resumes it, as the next attempt."""
    ledger.claim("a", "s", "me")
    assert ledger.release("a", "me")
    assert state_of(ledger, "a") is TrialState.WAITING
    assert ledger.claim("a", "s", "you") == 2


def test_a_complete_trial_is_never_claimed_again(ledger: Ledger, clock: Clock) -> None:
    """COMPLETE holds in every sweep, for ever."""
    ledger.claim("a", "s", "me")
    ledger.finish("a", "me", TrialState.COMPLETE)
    clock.now_s += 1e6
    assert ledger.claim("a", "s", "me") is None
    assert ledger.claim("a", "t", "you") is None
    assert ledger.reset_failed(["a"]) == []


def test_a_failed_trial_waits_for_retry(ledger: Ledger) -> None:
    """Its reason is kept, nobody gets it, and reset_failed makes it claimable again."""
    ledger.claim("a", "s", "me")
    ledger.finish("a", "me", TrialState.FAILED, "ValueError: no")
    assert ledger.states(["a"])["a"].reason == "ValueError: no"
    assert ledger.claim("a", "s", "me") is None
    assert ledger.reset_failed(["a", "b", "unknown"]) == ["a"]
    row = ledger.states(["a"])["a"]
    assert (row.state, row.attempt, row.settled_attempt) == (TrialState.WAITING, 1, 1)
    assert ledger.claim("a", "s", "me") == 2


def test_pruned_holds_within_its_sweep_only(ledger: Ledger) -> None:
    """Another sweep may continue to train it; when that stops, it is still PRUNED for the first."""
    ledger.claim("a", "s", "me")
    ledger.finish("a", "me", TrialState.PRUNED, "worse than the median")
    assert ledger.claim("a", "s", "me") is None
    assert (state_of(ledger, "a", "s"), state_of(ledger, "a", "t")) == (TrialState.PRUNED, TrialState.WAITING)
    assert ledger.claim("a", "t", "you") == 2
    ledger.release("a", "you")
    assert ledger.claim("a", "s", "me") is None
    assert state_of(ledger, "a", "s") is TrialState.PRUNED
    ledger.claim("a", "t", "you")
    ledger.finish("a", "you", TrialState.COMPLETE)
    assert state_of(ledger, "a", "s") is TrialState.COMPLETE


def test_reclaim_frees_trials_of_dead_owners(ledger: Ledger) -> None:
    """Live owners keep theirs, and ended trials stay ended."""
    ledger.claim("a", "s", "dead")
    ledger.claim("b", "s", "alive")
    ledger.claim("c", "s", "dead")
    ledger.finish("c", "dead", TrialState.COMPLETE)
    assert ledger.reclaim(lambda owner: owner == "dead") == ["a"]
    assert ledger.states(["a"])["a"].sweep == "s"
    assert [state_of(ledger, key) for key in "abc"] == [TrialState.WAITING, TrialState.RUNNING, TrialState.COMPLETE]


def test_registering_again_changes_nothing(ledger: Ledger) -> None:
    """A sweep that is planned again finds its trials unchanged."""
    ledger.claim("a", "s", "me")
    ledger.finish("a", "me", TrialState.COMPLETE)
    ledger.register("s", [("a", "one"), ("d", "three")])
    assert state_of(ledger, "a") is TrialState.COMPLETE
    assert ledger.members("s") == {"a": "one", "b": "one", "c": "two", "d": "three"}


def test_many_keys_at_once(ledger: Ledger) -> None:
    """More keys than SQLite allows parameters."""
    keys = [f"k{index}" for index in range(3000)]
    ledger.register("big", [(key, "c") for key in keys])
    assert len(ledger.states(keys, "big")) == 3000
    assert ledger.reset_failed(keys) == []


def test_another_version_is_refused(tmp_path: Path) -> None:
    """A ledger of a later orchestrate is not touched."""
    url = f"sqlite:///{tmp_path}/ledger.db"
    Ledger(url).close()
    with sa.create_engine(url).begin() as connection:
        connection.execute(sa.text("INSERT INTO ledger_meta VALUES (99)"))
    with pytest.raises(OrchestrateError, match=r"version 99, expected 1"):
        Ledger(url)


@pytest.mark.parametrize("url", ["mysql://host/db", "sqlite://"])
def test_an_unsuitable_database_is_refused(url: str) -> None:
    """For another kind of database, or one in memory, the message says what is allowed."""
    with pytest.raises(OrchestrateError, match=r"Known: sqlite, postgresql|cannot be shared"):
        Ledger(url)


@pytest.mark.parametrize(
    ("url", "found"),
    [
        ("postgresql://me:s3cret@127.0.0.1:1/db", r"No module named|refused"),  # without, and with, the driver
        ("postgresql+nosuchdriver://me:s3cret@host/db", "nosuchdriver"),
        ("postgresql://me:s3cret@host:port/db", "'port'"),
        ("postgresql://me:x@s3cret@host/db", "%40"),
        ("postgresql://me:x@y/s3cret@host/db", "%40"),
        ("s3cret", "parse"),
        ("sqlite:////proc/nowhere/ledger.db", "nowhere"),
    ],
)
def test_a_database_that_cannot_be_opened_is_reported(url: str, found: str) -> None:
    """The message says what was found and what to do, and never the password."""
    with pytest.raises(TrackingError, match=rf"cannot be opened: .*({found}).*ORCHESTRATE_STORAGE") as caught:
        Ledger(url)
    assert "s3cret" not in str(caught.value) or "://" not in url


def test_a_forgotten_result_is_trained_again(ledger: Ledger) -> None:
    """Only a COMPLETE trial is reset, once, and then it is claimed as the next attempt."""
    ledger.claim("a", "s", "me")
    assert not ledger.forget("a")
    ledger.finish("a", "me", TrialState.COMPLETE)
    assert [ledger.forget("a"), ledger.forget("a")] == [True, False]
    assert ledger.claim("a", "t", "you") == 2


def test_odd_paths(tmp_path: Path) -> None:
    """Spaces, percent signs and letters of other scripts work."""
    ledger = Ledger(f"sqlite:///{tmp_path}/a b/50 %/жук/ledger.db")
    ledger.register("s", [("a", "c")])
    assert (tmp_path / "a b" / "50 %" / "жук" / "ledger.db").exists()


OPEN_AND_CLAIM = """
import json, os, random, sys, time
from orchestrator.state.ledger import Ledger
from orchestrator.state.trial.records import TrialState

url, name, go = sys.argv[1:]
print("ready", flush=True)
while not os.path.exists(go):
    time.sleep(0.001)
ledger = Ledger(url)
keys = [f"k{index}" for index in range(25)]
ledger.register("s", [(key, "c") for key in keys])
random.Random(name).shuffle(keys)
mine = [key for key in keys if ledger.claim(key, "s", name) is not None]
assert all(ledger.finish(key, name, TrialState.COMPLETE) for key in mine)
print(json.dumps(mine))
"""


def test_eight_processes_open_one_fresh_file(tmp_path: Path) -> None:
    """None crashes while creating the tables, and each trial is claimed exactly once."""
    go, url = tmp_path / "go", f"sqlite:///{tmp_path}/ledger.db"
    commands = [[sys.executable, "-c", OPEN_AND_CLAIM, url, f"p{index}", str(go)] for index in range(8)]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for command in commands]
    for process in processes:
        assert process.stdout is not None
        process.stdout.readline()
    go.touch()
    claims = [json.loads(process.communicate(timeout=60)[0]) for process in processes]
    assert [process.returncode for process in processes] == [0] * 8
    assert sorted(key for keys in claims for key in keys) == sorted(f"k{index}" for index in range(25))


def test_threads_never_share_a_trial(tmp_path: Path) -> None:
    """Claims, releases and lost claims in any order: no two threads believe that they hold a trial."""
    ledger = Ledger(f"sqlite:///{tmp_path}/ledger.db")
    keys = ["a", "b", "c"]
    ledger.register("s", [(key, "c") for key in keys])
    holders: defaultdict[str, set[str]] = defaultdict(set)
    guard, clashes = threading.Lock(), []

    def play(name: str) -> None:
        dice = random.Random(name)
        for _ in range(40):
            key = dice.choice(keys)
            if ledger.claim(key, "s", name) is None:
                continue
            with guard:
                clashes.extend([key] if holders[key] else [])
                holders[key].add(name)
            with guard:
                holders[key].discard(name)
            assert ledger.release(key, name)

    threads = [threading.Thread(target=play, args=(f"t{index}",)) for index in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not clashes


OWNERS = ("anna", "ben", "cora")
SWEEPS = ("s", "t")
KEYS = ("a", "b")


class LedgerHistories(RuleBasedStateMachine):
    """Plays any history on a ledger and on a plain dict of what each owner holds."""

    @initialize()
    def open(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.clock = Clock()
        self.ledger = Ledger(f"sqlite:///{self.folder.name}/ledger.db", clock=self.clock, lease_s=60)
        for sweep in SWEEPS:
            self.ledger.register(sweep, [(key, "c") for key in KEYS])
        self.held: dict[str, tuple[str, float]] = {}  # key -> owner, end of the lease
        self.complete: set[str] = set()
        self.failed: set[str] = set()
        self.pruned: set[tuple[str, str]] = set()
        self.attempts = dict.fromkeys(KEYS, 0)

    def teardown(self) -> None:
        if hasattr(self, "ledger"):
            self.ledger.close()
            self.folder.cleanup()

    @rule(key=st.sampled_from(KEYS), sweep=st.sampled_from(SWEEPS), owner=st.sampled_from(OWNERS))
    def claim(self, key: str, sweep: str, owner: str) -> None:
        held = self.held.get(key)
        is_free = held is None or held[1] < self.clock.now_s
        is_open = key not in self.complete | self.failed and (sweep, key) not in self.pruned
        attempt = self.ledger.claim(key, sweep, owner)
        assert (attempt is not None) == (is_free and is_open)
        if attempt is not None:
            self.attempts[key] += 1
            assert attempt == self.attempts[key]
            self.held[key] = (owner, self.clock.now_s + 60)

    @rule(key=st.sampled_from(KEYS), owner=st.sampled_from(OWNERS))
    def renew(self, key: str, owner: str) -> None:
        is_mine = self.held.get(key, ("", 0))[0] == owner
        assert self.ledger.renew(owner, [key]) == ([] if is_mine else [key])
        if is_mine:
            self.held[key] = (owner, self.clock.now_s + 60)

    @rule(key=st.sampled_from(KEYS), owner=st.sampled_from(OWNERS))
    def release(self, key: str, owner: str) -> None:
        is_mine = self.held.get(key, ("", 0))[0] == owner
        assert self.ledger.release(key, owner) == is_mine
        if is_mine:
            del self.held[key]

    @rule(
        key=st.sampled_from(KEYS),
        owner=st.sampled_from(OWNERS),
        state=st.sampled_from([TrialState.COMPLETE, TrialState.FAILED, TrialState.PRUNED]),
    )
    def finish(self, key: str, owner: str, state: TrialState) -> None:
        sweep = self.ledger.states([key])[key].sweep
        is_mine = self.held.get(key, ("", 0))[0] == owner
        assert self.ledger.finish(key, owner, state) == is_mine
        if is_mine:
            del self.held[key]
            if state is TrialState.COMPLETE:
                self.complete.add(key)
            elif state is TrialState.FAILED:
                self.failed.add(key)
            else:
                assert sweep is not None
                self.pruned.add((sweep, key))

    @rule(dead=st.sampled_from(OWNERS))
    def reclaim(self, dead: str) -> None:
        freed = {key for key, (owner, _) in self.held.items() if owner == dead}
        assert set(self.ledger.reclaim(lambda owner: owner == dead)) == freed
        for key in freed:
            del self.held[key]

    @rule(key=st.sampled_from(KEYS))
    def retry(self, key: str) -> None:
        assert self.ledger.reset_failed([key]) == ([key] if key in self.failed else [])
        self.failed.discard(key)

    @rule(key=st.sampled_from(KEYS))
    def forget(self, key: str) -> None:
        assert self.ledger.forget(key) == (key in self.complete)
        self.complete.discard(key)

    @precondition(lambda self: bool(self.held))
    @rule(seconds=st.sampled_from([1, 30, 61]))
    def wait(self, seconds: int) -> None:
        self.clock.now_s += seconds

    @invariant()
    def states_agree(self) -> None:
        if not hasattr(self, "ledger"):
            return
        for sweep in SWEEPS:
            for key, row in self.ledger.states(KEYS, sweep).items():
                if key in self.complete:
                    expected = TrialState.COMPLETE
                elif (sweep, key) in self.pruned:
                    expected = TrialState.PRUNED
                elif key in self.failed:
                    expected = TrialState.FAILED
                else:
                    expected = TrialState.RUNNING if key in self.held else TrialState.WAITING
                assert row.state is expected
                assert row.is_held(self.clock.now_s) == (expected is TrialState.RUNNING and self.held[key][1] >= self.clock.now_s)


TestLedgerHistories = LedgerHistories.TestCase
TestLedgerHistories.settings = settings(
    max_examples=40, stateful_step_count=25, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
