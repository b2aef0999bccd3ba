"""Optional packages: imported where they are used, with one message when they are missing."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from ..errors import MissingPackageError


def require(module: str, *, extra: str, purpose: str) -> Any:
    """Import an optional package.

    Args:
        module: name to import, such as ``matplotlib.figure``.
        extra: the extra of emobake that installs it.
        purpose: what needs it, such as "pictures".

    Raises:
        MissingPackageError: it is not installed, or does not import.
    """
    try:
        return import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        # torch and others fail to import for many reasons; the reason tells which package to repair.
        why = "" if isinstance(error, ModuleNotFoundError) and error.name == package else f" ({error})"
        raise MissingPackageError(f"{purpose}: needs {package}{why}; pip install 'emobake[{extra}]'") from None
