"""What can go wrong, and with which exit code.

    EmobakeError                 1  a run that failed
    ├── OutputError              1  the output could not be written (disk full, no permission ...)
    ├── VerifyError              1  a check of a finished bake did not hold
    └── InputError               2  what was asked for cannot be done; nothing was written
        ├── BrokenFileError      2  a checkpoint file that is not what it says it is
        ├── VectorError          2  a vector set that is broken or does not fit the model
        └── UnsupportedModelError 2 no route puts the bias where stock stacks honour it

Every message is one line: what is wrong, in which file, what to do about it.
"""

from __future__ import annotations


class EmobakeError(Exception):
    """Base of all errors that emobake raises on purpose."""

    exit_code = 1


class OutputError(EmobakeError):
    """The output could not be written; what was begun has been removed."""


class VerifyError(EmobakeError):
    """A finished bake could not be checked."""


class InputError(EmobakeError):
    """The request cannot be carried out as given; nothing was written."""

    exit_code = 2


class BrokenFileError(InputError):
    """A file of the checkpoint is truncated, malformed or contradicts another one."""


class VectorError(InputError):
    """A vector set is malformed, or was made for another model."""


class UnsupportedModelError(InputError):
    """No route serves this architecture (or the stacks that were demanded)."""
