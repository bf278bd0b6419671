"""Errors of a training.

TrainerError
├── ConfigError      the configuration cannot be built: unknown name, wrong argument, import path that does not import
├── DataError        the data set cannot be used: broken file, missing pair, unknown label, empty split
└── DivergedError    the loss is no longer a finite number
"""


class TrainerError(Exception):
    """An error that a person can fix; the message says where, what was found and what is allowed."""


class ConfigError(TrainerError):
    """The configuration cannot be built on this machine."""


class DataError(TrainerError):
    """The data set cannot be used as it is."""


class DivergedError(TrainerError):
    """The loss became NaN or infinite."""
