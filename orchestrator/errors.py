"""What can go wrong, as one tree; the command line prints these without a traceback.

OrchestrateError
├── SpecError        the sweep file or an option is wrong: nothing was started
├── DataError        the data set that a sweep names cannot be used: nothing was started
├── LaunchError      no worker can be started
├── TrialError       a trial's folder is not what it should be
├── TrackingError    the tracking server cannot be used
├── EnsembleError    these predictions cannot be combined
├── PredictError     a model, the pictures or the place for the masks cannot be used
└── ScheduleError    a schedule cannot be kept or exported
"""

from __future__ import annotations

import re


class OrchestrateError(Exception):
    """The message says where, what was found, what is allowed and what to do."""


class SpecError(OrchestrateError):
    """The sweep file or an option is wrong."""


class DataError(OrchestrateError):
    """A data set named by the sweep cannot be used."""


class LaunchError(OrchestrateError):
    """No worker can be started."""


class TrialError(OrchestrateError):
    """A trial's folder is missing something or was written by another version."""


class TrackingError(OrchestrateError):
    """The tracking server cannot be reached or answers something unexpected."""


class EnsembleError(OrchestrateError):
    """Predictions that cannot be combined: another split, other labels, a damaged file."""


class PredictError(OrchestrateError):
    """What to predict with, on or into cannot be used; nothing was written."""


class ScheduleError(OrchestrateError):
    """A schedule that cannot be kept, or not be written as crontab or systemd have it."""


# Up to the last @ before a space, because a password may hold @, / and :. In doubt (a path with an @) too much is hidden.
_IN_ADDRESS = re.compile(r"(\w://[^\s/:]*):\S*@")
_IN_QUERY = re.compile(r"([?&;](?:\w*password|passwd|pwd|\w*token)=)[^\s&;'\"]+", re.IGNORECASE)


def redact(text: str) -> str:
    """Take the passwords out of every address in ``text``; user, host, port and path stay."""
    return _IN_QUERY.sub(r"\1***", _IN_ADDRESS.sub(r"\1:***@", text))
