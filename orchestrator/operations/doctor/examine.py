"""All examinations of `orchestrate doctor`, one after another; one that breaks is itself a finding."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from orchestrator.operations.doctor.datasets import check_data
from orchestrator.operations.doctor.findings import Diagnosis, Finding, wrong
from orchestrator.operations.doctor.machine import check_disk, check_gpus, check_packages
from orchestrator.operations.doctor.servers import check_storage, check_tracking
from orchestrator.state.home import Home


def examine(home: Home) -> Diagnosis:
    """Look at this machine and at the servers that ``home`` names; changes nothing but that a shared database gets its tables."""
    checks: dict[str, Callable[[], Iterator[Finding]]] = {
        "packages": check_packages,
        "GPUs": check_gpus,
        "disk": lambda: check_disk(home),
        "ledger": lambda: check_storage(home),
        "tracking": lambda: check_tracking(home),
        "data": lambda: check_data(home),
    }
    return Diagnosis([finding for subject, check in checks.items() for finding in _run(subject, check)])


def _run(subject: str, check: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    try:
        yield from check()
    except Exception as error:  # an examination that breaks says something about the patient, too
        yield wrong(subject, f"{type(error).__name__}: {error}", "This examination itself broke: please report it.")
