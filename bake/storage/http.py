"""HTTP for the Hub and for other hosts: retries, and one-line reasons for failures.

huggingface_hub does not export some of the functions that are needed; they are imported here and nowhere else, and a
test asserts that they exist. Its versions below 1 use requests as their HTTP library, later ones httpx; only this
module knows, and the limits of each.
"""

from __future__ import annotations

import json
import logging
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from huggingface_hub import __version__ as _version
from huggingface_hub import get_token
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled
from huggingface_hub.utils import (  # type: ignore[attr-defined]
    _http,
    build_hf_headers,
    get_session,
    hf_raise_for_status,
    validate_repo_id,
)
from huggingface_hub.utils.tqdm import disable_progress_bars

from ..core.text import one_line
from ..errors import without_secrets
from . import httpx_limits, requests_limits
from .network_limits import bounded

if TYPE_CHECKING:
    from tenacity import RetryCallState, Retrying

__all__ = [
    "bounded",
    "build_hf_headers",
    "get",
    "is_passing",
    "quiet_library",
    "reason",
    "requested",
    "retrying",
    "status",
    "validate_repo_id",
]

_library: Any = _http
# Whatever factory the process has set stays in use.
if hasattr(_library, "set_client_factory"):  # Since version 1.
    _library.set_client_factory(httpx_limits.limited(_library._GLOBAL_CLIENT_FACTORY))
else:
    _library.configure_http_backend(requests_limits.limited(_library._GLOBAL_BACKEND_FACTORY))

_PASSING = (408, 429, 500, 502, 503, 504)
"""Statuses that another try may not meet again."""
MOVED = (409, 412)
"""Statuses of a commit whose branch has moved since it was looked at."""
_TRANSPORT = frozenset({"TransportError", "ConnectionError", "Timeout", "ChunkedEncodingError"})
"""Base classes of what httpx (the first) and requests raise when the network fails."""
_TIMEOUT = 30
"""Seconds without an answer, or without another byte."""


def quiet_library(*, always: bool = False) -> None:
    """Silence progress bars and retry logs of huggingface_hub when stderr is not a terminal, or `always`.

    Its logs show no secrets in any case.
    """
    for handler in logging.getLogger("huggingface_hub").handlers:
        if _without_secrets not in handler.filters:
            handler.addFilter(_without_secrets)
    if always or not sys.stderr.isatty():
        disable_progress_bars()
        logging.getLogger("huggingface_hub").setLevel(logging.ERROR)


@contextmanager
def get(url: str, headers: Mapping[str, str]) -> Iterator[tuple[int, Iterator[bytes]]]:
    """Request a URL, follow redirects, and give the status and the content, which is read while it comes.

    Raises:
        HfHubHTTPError: the status says that it failed. The HTTP library's own errors: the network failed.
    """
    session: Any = get_session()
    # Compressed, the length of the content could not be checked.
    headers = {**headers, "Accept-Encoding": "identity"}
    if int(_version.partition(".")[0]) < 1:
        with session.get(url, headers=headers, timeout=_TIMEOUT, stream=True) as response:
            hf_raise_for_status(response)
            yield response.status_code, response.iter_content(64 * 2**10)
    else:
        with session.stream("GET", url, headers=headers, timeout=_TIMEOUT, follow_redirects=True) as response:
            if not response.is_success:
                response.read()
                hf_raise_for_status(response)
            yield response.status_code, response.iter_bytes()


def _without_secrets(record: logging.LogRecord) -> bool:
    """Cut secrets out of a line of a log."""
    record.msg, record.args = without_secrets(record.getMessage()), ()
    return True


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
    response = _response(error)
    asked = "" if response is None else str(response.headers.get("retry-after", ""))
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
    return any(kind.__name__ in _TRANSPORT for kind in type(error).__mro__)


def status(error: BaseException) -> int | None:
    """HTTP status behind an error, if any."""
    response = _response(error)
    return None if response is None else int(response.status_code)


def requested(error: BaseException) -> str:
    """Path of the failed request; empty if unknown."""
    response = _response(error)
    try:
        request = getattr(error if response is None else response, "request", None)
    except RuntimeError:  # Raised by httpx if there is no request.
        return ""
    return "" if request is None else unquote(urlsplit(str(request.url)).path)


def _response(error: BaseException | None) -> Any:
    """The Hub's answer behind an error; None if there was none."""
    return error.response if isinstance(error, HfHubHTTPError) else None


def reason(error: BaseException) -> str:
    """An error in one short line, without URL signatures and without tokens."""
    cause = error.__cause__ if isinstance(error, RuntimeError) and error.__cause__ else error
    text = re.sub(r"For more information check: \S+ ?", "", " ".join(str(cause).split())) or type(cause).__name__
    token = get_token()  # The environment's, or that of `hf auth login`.
    if token:
        text = text.replace(token, "(token)")
    text = re.sub(r"(url: /[^\s?]*)\?\S*", r"\1", text)  # As requests writes it.
    return one_line(without_secrets(text))[:200]
