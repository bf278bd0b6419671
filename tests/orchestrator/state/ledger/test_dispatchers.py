"""Which dispatchers work on which sweep, stop requests to them, and the plans for workers that join."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.state.ledger import Ledger, Role, Roster
from tests.orchestrator.clock import Clock


@pytest.fixture
def roster(tmp_path: Path, clock: Clock) -> Roster:
    """Without dispatchers."""
    return Ledger(f"sqlite:///{tmp_path}/ledger.db", clock=clock, lease_s=60).roster


def unknown(_owner: str) -> bool | None:
    """As if every owner were on another machine."""
    return None


def test_a_stop_request_reaches_registered_dispatchers_only(roster: Roster) -> None:
    """Not those of another sweep, and none that starts later, even under the same name."""
    with (
        roster.registered("a:1:1", "s", Role.SWEEP),
        roster.registered("b:1:1", "s", Role.WORKER),
        roster.registered("c:1:1", "t", Role.SWEEP),
    ):
        roster.ask_to_stop([row.owner for row in roster.list_alive(unknown) if row.sweep == "s"], 1)
        assert [roster.check_in(owner) for owner in ("a:1:1", "b:1:1", "c:1:1")] == [1, 1, 0]
    with roster.registered("a:1:1", "s", Role.SWEEP):
        assert roster.check_in("a:1:1") == 0


def test_a_graceful_request_does_not_replace_an_immediate_one(roster: Roster) -> None:
    """A dispatcher that was asked to stop at once is not asked gracefully afterwards."""
    with roster.registered("a:1:1", "s", Role.SWEEP):
        roster.ask_to_stop(["a:1:1"], 2)
        roster.ask_to_stop(["a:1:1"], 1)
        assert roster.check_in("a:1:1") == 2


def test_dispatchers_of_other_machines_live_while_they_check_in(roster: Roster, clock: Clock) -> None:
    """On this machine it is known who is alive; dead dispatchers are removed."""
    with roster.registered("far:1:1", "s", Role.WORKER), roster.registered("here:1:1", "s", Role.SWEEP):
        clock.now_s += 59
        roster.check_in("here:1:1")
        assert [row.owner for row in roster.list_alive(unknown)] == ["far:1:1", "here:1:1"]
        clock.now_s += 59
        assert [row.owner for row in roster.list_alive(unknown)] == ["here:1:1"]
        assert [row.owner for row in roster.list_alive(lambda owner: owner.startswith("far"))] == ["far:1:1"]
        roster.remove_dead(lambda owner: owner == "here:1:1")
        assert roster.list_alive(lambda owner: True)[0].owner == "far:1:1"


def test_the_last_plan_counts(roster: Roster, clock: Clock) -> None:
    """The last one of a sweep, and of all sweeps."""
    for sweep, document in (("s", "one"), ("t", "two"), ("s", "three")):
        clock.now_s += 1
        roster.write_plan(sweep, document)
    assert (roster.read_plan("s"), roster.read_plan("t"), roster.read_plan("u")) == ("three", "two", None)
    assert roster.latest() == "s"
    assert roster.sweeps() == ["s", "t"]
