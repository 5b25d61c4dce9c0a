"""The errors that Sparing raises: each message says what was wrong, where, and what to do."""


class SparingError(Exception):
    """Base of every error that Sparing raises on purpose; the command line prints it and exits with 1."""


class InputError(SparingError):
    """The user's data, file or argument cannot be used as it is."""


class BudgetError(InputError):
    """A budget cannot be parsed, is out of range, or cannot be turned into rows or time."""


class ModelError(SparingError):
    """A model could not be loaded, raised while running, or returned something that is no distribution."""


class FailedRowsWarning(UserWarning):
    """A job is done, but some rows failed, and nobody asked to be told of them."""


class OrientationWarning(UserWarning):
    """An image is stored turned, and nobody said whether the model takes it so."""


class StorageError(SparingError):
    """A file or a folder of ours could not be written (what was there before still is), or is damaged."""


class LockedError(StorageError):
    """Another process is writing to the same place."""


class CacheError(StorageError):
    """A cache is missing, is not a cache, is newer than this release, or could not be written."""


class CacheLockedError(LockedError, CacheError):
    """Another process is writing to the cache."""


class MissingExtraError(SparingError):
    """An optional library is needed; the message names the pip command that installs it."""

    def __init__(self, library: str, extra: str, purpose: str) -> None:
        super().__init__(f'{purpose} needs {library}: pip install "sparing[{extra}]"')
