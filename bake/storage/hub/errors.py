"""What can go wrong on the Hub, in one line each; and which of it is worth another try."""

from __future__ import annotations

import contextlib
import json
import logging
import re
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from huggingface_hub import get_token
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils.tqdm import disable_progress_bars

from ...errors import EmobakeError, InputError

if TYPE_CHECKING:
    from tenacity import RetryCallState, Retrying

NO_RIGHT = "the Hub refuses to let you write there; run hf auth login, or set HF_TOKEN, with a right to write"
_PASSING = (408, 429, 500, 502, 503, 504)
"""Statuses that another try may not meet again."""
_MOVED = (409, 412)
"""What a commit gets when its branch has moved since it was looked at."""


def quiet_library(*, always: bool = False) -> None:
    """Off a terminal, no bars, nor a word on each attempt: our one line comes when the library has given up."""
    if always or not sys.stderr.isatty():
        disable_progress_bars()
        logging.getLogger("huggingface_hub").setLevel(logging.ERROR)


@contextlib.contextmanager
def fetching(repo_id: str, revision: str | None, missing: str) -> Iterator[None]:
    """Turn what the library raises into one line; `missing` is said of a file that the repository does not have.

    Raises:
        InputError: no such repository, revision, file or access; not in the cache while offline.
        EmobakeError: the Hub or the network failed.
    """
    quiet_library()
    try:
        yield
    except HFValidationError:
        raise InputError(f"{repo_id}: neither a folder here nor a valid Hub id (owner/name)") from None
    except GatedRepoError:
        raise InputError(
            f"{repo_id}: is gated; ask for access at https://huggingface.co/{repo_id} and set HF_TOKEN"
        ) from None
    except RevisionNotFoundError:
        raise InputError(f"{repo_id}: has no revision {revision!r}") from None
    except (LocalEntryNotFoundError, OfflineModeIsEnabled):
        raise InputError(
            f"{repo_id}: no such folder, and the Hub cannot be reached nor is it in the cache; "
            "check the name, the connection and HF_HUB_OFFLINE"
        ) from None
    except RepositoryNotFoundError:
        raise InputError(f"{repo_id}: no such folder, nor such a model on the Hub (if private, set HF_TOKEN)") from None
    except EntryNotFoundError:
        raise InputError(f"{repo_id}: {missing}") from None
    except EmobakeError:
        raise
    except UnicodeEncodeError:
        raise _no_header() from None
    except Exception as error:  # of the HTTP library, beside the Hub's own
        raise EmobakeError(
            f"{repo_id}: could not be fetched ({reason(error)}); run again to go on where it stopped"
        ) from None


@contextlib.contextmanager
def sending(repo_id: str, *, source: str = "", commit: str = "") -> Iterator[None]:
    """The same while writing to `repo_id`; with `source`, files of that repository's `commit` go along.

    Raises:
        InputError: not a valid id, no token, no right to write there, or offline.
        EmobakeError: the Hub or the network failed, or the source's commit is gone.
    """
    quiet_library()
    try:
        yield
    except EmobakeError:
        raise
    except UnicodeEncodeError:
        raise _no_header() from None
    except HFValidationError:
        raise InputError(f"{repo_id}: is not a valid Hub id (owner/name)") from None
    except OfflineModeIsEnabled:
        raise InputError(f"{repo_id}: nothing can be uploaded while HF_HUB_OFFLINE is set") from None
    except LocalTokenNotFoundError:
        raise no_token(repo_id) from None
    except HfHubHTTPError as error:
        gone = isinstance(error, RepositoryNotFoundError | RevisionNotFoundError | EntryNotFoundError)
        forbidden = status(error) in (401, 403)
        if (gone or forbidden) and source and f"/{source}/" in requested(error):
            raise EmobakeError(
                f"{source}: commit {commit[:12]} is no longer there, or not yours to read any more; nothing was "
                "committed. Run again to start from what is there now"
            ) from None
        if forbidden:
            raise InputError(f"{repo_id}: {NO_RIGHT}") from None
        if gone:
            raise InputError(f"{repo_id}: no such repository, or no access to it; nothing was committed") from None
        raise _failed(repo_id, error) from None
    except Exception as error:  # of the HTTP library, beside the Hub's own
        if isinstance(error, ValueError) and "metadata in README.md" in str(error):
            raise InputError(f"{repo_id}: {reason(error)}; mend the card, nothing was committed") from None
        raise _failed(repo_id, error) from None


def no_token(repo_id: str) -> InputError:
    """What to say when there is no token to write with."""
    return InputError(f"{repo_id}: no token; run hf auth login, or set HF_TOKEN, with a right to write")


def _no_header() -> InputError:
    return InputError("HF_TOKEN, or what hf auth login has stored, holds characters that no token has; set it anew")


def _failed(repo_id: str, error: Exception) -> EmobakeError:
    if status(error) == 429:
        return EmobakeError(f"{repo_id}: the Hub limits the rate of requests; nothing was committed. Run again later")
    if status(error) in _MOVED:
        return EmobakeError(f"{repo_id}: somebody else writes there at the same time; nothing was committed. Run again")
    return EmobakeError(
        f"{repo_id}: could not be uploaded ({reason(error)}); nothing was committed. Run again to go on where it "
        "stopped"
    )


def retrying(
    *, also: Callable[[BaseException], bool] = lambda _: False, attempts: int = 5, seconds: float = 300
) -> Retrying:
    """Calls again, with growing pauses, what failed for a reason that may pass; the last failure comes through.

    For what the library does in one try only. `also` names further failures that are worth another try; no try begins
    after so many `seconds`.
    """
    from tenacity import Retrying, retry_if_exception, stop_after_attempt, stop_after_delay

    return Retrying(
        retry=retry_if_exception(lambda error: is_passing(error) or also(error)),
        stop=stop_after_attempt(attempts) | stop_after_delay(seconds),
        wait=_pause,
        before_sleep=_say,
        reraise=True,
    )


def _say(state: RetryCallState) -> None:
    """As the library says of its own tries: on a terminal, beside its bars."""
    error = state.outcome.exception() if state.outcome else None
    if error is not None:
        logging.getLogger("huggingface_hub.emobake").warning(
            "%s; trying again in %.0f s", reason(error), state.upcoming_sleep
        )


def _pause(state: RetryCallState) -> float:
    """Seconds: 1, 2, 4, 8, or what the Hub asks for (at most two minutes)."""
    error = state.outcome.exception() if state.outcome else None
    asked = str(error.response.headers.get("retry-after", "")) if isinstance(error, HfHubHTTPError) else ""
    return max(min(2.0 ** (state.attempt_number - 1), 8.0), min(float(asked), 120.0) if asked.isdigit() else 0.0)


def is_passing(error: BaseException) -> bool:
    """Whether the same may well succeed when it is tried again: the network, a limit, a server's fault, a race."""
    if (code := status(error)) is not None:
        return code in _PASSING or code in _MOVED
    if isinstance(error, RuntimeError) and error.__cause__ is not None:  # the library's word around a failed upload
        return is_passing(error.__cause__)
    if isinstance(error, json.JSONDecodeError):
        return True  # a proxy's page where the Hub's answer should be
    if isinstance(error, LocalEntryNotFoundError | ConnectionError | TimeoutError):
        return not isinstance(error, OfflineModeIsEnabled)  # a file that could not be fetched and is not in the cache
    # By name: which HTTP library it is depends on huggingface_hub's version.
    return any(kind.__name__ == "TransportError" for kind in type(error).__mro__)


def status(error: BaseException) -> int | None:
    """The HTTP status that the error comes from, if it does."""
    return error.response.status_code if isinstance(error, HfHubHTTPError) else None


def requested(error: BaseException) -> str:
    """The path of the request that failed, if it is known."""
    try:
        request: Any = error.response.request if isinstance(error, HfHubHTTPError) else getattr(error, "request", None)
    except RuntimeError:  # what the HTTP library says where it has none
        return ""
    return "" if request is None else str(request.url.path)


def reason(error: BaseException) -> str:
    """`error` in one short line, without signatures of addresses and without the token, whoever repeats it."""
    cause = error.__cause__ if isinstance(error, RuntimeError) and error.__cause__ else error
    text = re.sub(r"For more information check: \S+ ?", "", " ".join(str(cause).split())) or type(cause).__name__
    token = get_token()
    if token:
        text = text.replace(token, "(token)")
    return re.sub(r"\bhf_\w{8,}", "(token)", re.sub(r"(https?://[^\s?]*)\?\S*", r"\1", text))[:200]
