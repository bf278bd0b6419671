"""All errors as one tree; the command line prints them without a traceback.

OrchestrateError
├── SpecError        the sweep file or an option is wrong: nothing was started
├── DataError        the sweep's data set cannot be used: nothing was started
├── LaunchError      no worker can be started
├── TrialError       a trial's folder lacks a file, or another version wrote it
├── TrackingError    the tracking server or the ledger's database cannot be used
├── EnsembleError    predictions cannot be combined: another split, other labels, a damaged file
├── PredictError     the model, the images or the output cannot be used: nothing was written
└── ScheduleError    a schedule cannot be run or exported
"""

import re


class OrchestrateError(Exception):
    """Its message says where, what was found, what is allowed and what to do."""


class SpecError(OrchestrateError):
    """The sweep file or an option is wrong."""


class DataError(OrchestrateError):
    """The sweep's data set cannot be used."""


class LaunchError(OrchestrateError):
    """No worker can be started."""


class TrialError(OrchestrateError):
    """A trial's folder lacks a file, or another version wrote it."""


class TrackingError(OrchestrateError):
    """The tracking server or the ledger's database cannot be used."""


class EnsembleError(OrchestrateError):
    """Predictions cannot be combined."""


class PredictError(OrchestrateError):
    """The model, the images or the output cannot be used; nothing was written."""


class ScheduleError(OrchestrateError):
    """A schedule cannot be run, or cannot be exported to crontab or systemd."""


# Up to the last @ before a space, because a password may contain @, / and :. In doubt (a path with an @) too much is hidden.
_IN_ADDRESS = re.compile(r"(\w://[^\s/:]*):\S*@")
_IN_QUERY = re.compile(r"([?&;](?:\w*password|passwd|pwd|\w*token)=)[^\s&;'\"]+", re.IGNORECASE)


def redact(text: str) -> str:
    """Hide the passwords in all addresses in ``text``; user, host, port and path stay."""
    return _IN_QUERY.sub(r"\1***", _IN_ADDRESS.sub(r"\1:***@", text))
