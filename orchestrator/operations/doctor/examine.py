"""Runs all checks of `orchestrate doctor`, one after another; a check that fails is itself a finding."""

from collections.abc import Callable, Iterator

from orchestrator.operations.doctor.datasets import check_data
from orchestrator.operations.doctor.findings import Diagnosis, Finding, error
from orchestrator.operations.doctor.machine import check_disk, check_gpus, check_packages
from orchestrator.operations.doctor.servers import check_storage, check_tracking
from orchestrator.state.home import Home


def examine(home: Home) -> Diagnosis:
    """Check this machine and the servers that ``home`` names; creates missing tables in a shared database, nothing else."""
    checks: dict[str, Callable[[], Iterator[Finding]]] = {
        "packages": check_packages,
        "GPUs": check_gpus,
        "disk": lambda: check_disk(home),
        "ledger": lambda: check_storage(home),
        "tracking": lambda: check_tracking(home),
        "data": lambda: check_data(home),
    }
    findings: list[Finding] = []
    for subject, check in checks.items():
        try:
            findings += check()
        except Exception as failure:  # of any kind: the other checks must still run
            findings.append(error(subject, f"{type(failure).__name__}: {failure}", "This check itself failed: please report it."))
    return Diagnosis(findings)
