"""HTTP for the Hub and for other hosts: retries, and one-line reasons for failures.

huggingface_hub does not export some of the functions that are needed; they are imported here and nowhere else, and a
test asserts that they exist.
"""

from __future__ import annotations

import json
import logging
import re
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from huggingface_hub import get_token, set_client_factory
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled
from huggingface_hub.utils import (  # type: ignore[attr-defined]
    _http,
    build_hf_headers,
    get_session,
    hf_raise_for_status,
    http_stream_backoff,
    validate_repo_id,
)
from huggingface_hub.utils.tqdm import disable_progress_bars

from ..core.text import one_line
from .network_limits import bounded, limited

if TYPE_CHECKING:
    from tenacity import RetryCallState, Retrying

__all__ = [
    "bounded",
    "build_hf_headers",
    "get_session",
    "hf_raise_for_status",
    "http_stream_backoff",
    "is_passing",
    "quiet_library",
    "reason",
    "requested",
    "retrying",
    "status",
    "validate_repo_id",
]

# Whatever factory the process has set stays in use.
set_client_factory(limited(_http._GLOBAL_CLIENT_FACTORY))

_PASSING = (408, 429, 500, 502, 503, 504)
"""Statuses that another try may not meet again."""
MOVED = (409, 412)
"""Statuses of a commit whose branch has moved since it was looked at."""


def quiet_library(*, always: bool = False) -> None:
    """Silence progress bars and retry logs of huggingface_hub when stderr is not a terminal, or `always`."""
    if always or not sys.stderr.isatty():
        disable_progress_bars()
        logging.getLogger("huggingface_hub").setLevel(logging.ERROR)


def retrying(
    *, also: Callable[[BaseException], bool] = lambda _: False, attempts: int = 5, seconds: float = 300
) -> Retrying:
    """Retry calls that huggingface_hub tries only once; the last failure is raised.

    Args:
        also: recognises further failures that are worth another try, besides `is_passing`.
        attempts: tries in all.
        seconds: no try begins later than this after the first one.
    """
    from tenacity import Retrying, retry_if_exception, stop_after_attempt, stop_after_delay

    return Retrying(
        retry=retry_if_exception(lambda error: is_passing(error) or also(error)),
        stop=stop_after_attempt(attempts) | stop_after_delay(seconds),
        wait=_pause,
        before_sleep=_log,
        reraise=True,
    )


def _log(state: RetryCallState) -> None:
    """Log a failed try as the library logs its own: visible on a terminal, beside its bars."""
    error = state.outcome.exception() if state.outcome else None
    if error is not None:
        logging.getLogger("huggingface_hub.emobake").warning(
            "%s; trying again in %.0f s", reason(error), state.upcoming_sleep
        )


def _pause(state: RetryCallState) -> float:
    """Seconds to wait: 1, 2, 4, 8, or what the Hub asks for (at most two minutes)."""
    error = state.outcome.exception() if state.outcome else None
    asked = str(error.response.headers.get("retry-after", "")) if isinstance(error, HfHubHTTPError) else ""
    return max(min(2.0 ** (state.attempt_number - 1), 8.0), min(float(asked), 120.0) if asked.isdigit() else 0.0)


def is_passing(error: BaseException) -> bool:
    """True if another try may succeed: the network, a rate limit, a server's fault, a race."""
    if (code := status(error)) is not None:
        return code in _PASSING or code in MOVED
    if isinstance(error, RuntimeError) and error.__cause__ is not None:  # How the library wraps a failed upload.
        return is_passing(error.__cause__)
    if isinstance(error, json.JSONDecodeError):
        return True  # A proxy's page in place of the Hub's answer.
    if isinstance(error, LocalEntryNotFoundError | ConnectionError | TimeoutError):
        return not isinstance(error, OfflineModeIsEnabled)  # A file that was neither fetched nor in the cache.
    # By name, because the HTTP library depends on the version of huggingface_hub.
    return any(kind.__name__ == "TransportError" for kind in type(error).__mro__)


def status(error: BaseException) -> int | None:
    """HTTP status behind an error, if any."""
    return error.response.status_code if isinstance(error, HfHubHTTPError) else None


def requested(error: BaseException) -> str:
    """Path of the failed request; empty if unknown."""
    try:
        request: Any = error.response.request if isinstance(error, HfHubHTTPError) else getattr(error, "request", None)
    except RuntimeError:  # Raised by the HTTP library if there is no request.
        return ""
    return "" if request is None else str(request.url.path)


def reason(error: BaseException) -> str:
    """An error in one short line, without URL signatures and without tokens."""
    cause = error.__cause__ if isinstance(error, RuntimeError) and error.__cause__ else error
    text = re.sub(r"For more information check: \S+ ?", "", " ".join(str(cause).split())) or type(cause).__name__
    token = get_token()
    if token:
        text = text.replace(token, "(token)")
    return one_line(re.sub(r"\bhf_\w{8,}", "(token)", re.sub(r"(https?://[^\s?]*)\?\S*", r"\1", text)))[:200]
