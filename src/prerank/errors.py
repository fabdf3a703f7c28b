"""The errors that a user can cause, each with a message that names the place and the fix."""


class PrerankError(Exception):
    """Base of every error that a caller or a file can cause.

    The command line prints the message as one line and exits with 2; nothing else in the package is
    caught there, so a traceback always means a fault of prerank itself.
    """


class ConfigError(PrerankError):
    """A configuration key or value is wrong; the message names the file and the key."""


class DataError(PrerankError):
    """A table, file or log is wrong; the message names the file, the column and the row."""


class ArtefactError(PrerankError):
    """A published directory or checkpoint is damaged, incomplete or of another version."""


class RequestError(PrerankError):
    """A ranking request cannot be answered as it stands; the message names its field."""


class ServiceError(PrerankError):
    """The service cannot begin, or cannot go on; the message says why."""
