"""What is kept of a log's end if a process died."""

from __future__ import annotations

import subprocess
import sys

import pytest

from orchestrator.state.trial.folder import cut_tail

SCRIPT = """
import faulthandler, os, sys, threading
faulthandler.enable()
threading.Thread(target=threading.Event().wait, daemon=True).start()
def innermost():
    print("terminate called after throwing an instance of 'std::bad_alloc'", file=sys.stderr)
    if sys.argv[1] == "abort":
        os.abort()
    faulthandler.dump_traceback()
    print(*sys.argv[2:], sep="\\n", file=sys.stderr)
def go_down(levels):
    go_down(levels - 1) if levels else innermost()
go_down(60)
"""


def crash(*how: str) -> list[str]:
    """The log of a process that prints its threads' stacks, sixty calls deep."""
    done = subprocess.run([sys.executable, "-c", SCRIPT, *how], stderr=subprocess.PIPE, text=True, check=False)
    return ["--- attempt 1", *done.stderr.splitlines()]


@pytest.mark.parametrize("num_lines", [30, 5])
@pytest.mark.parametrize("how", ["abort", "dump"])
def test_the_innermost_calls_of_a_dead_process_are_kept(how: str, num_lines: int) -> None:
    """Faulthandler writes them first, and a long list of modules last; some lines from before are kept too."""
    end = cut_tail(cut_tail(crash(how), 30), num_lines)
    assert len(end) <= num_lines
    assert any("in innermost" in line for line in end)
    assert not any("Extension modules" in line or "in wait" in line for line in end)
    assert any("std::bad_alloc" in line for line in end) or (how, num_lines) == ("abort", 5)


def test_lines_after_the_stacks_are_the_end() -> None:
    """Such as after a false alarm, when the process failed later in another way."""
    assert cut_tail(crash("dump", "one", "two", "three"), 2) == ["two", "three"]
    assert cut_tail(["a", "  b"], 1) == ["  b"]
    assert cut_tail([], 5) == []
