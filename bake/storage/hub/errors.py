"""Failures of the Hub, as errors of one line."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

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

from ...errors import EmobakeError, HubError, InputError
from ..http import MOVED, quiet_library, reason, requested, status

NO_RIGHT = "the Hub refuses to let you write there; run hf auth login, or set HF_TOKEN, with a right to write"


@contextlib.contextmanager
def fetching(repo_id: str, revision: str | None, missing: str) -> Iterator[None]:
    """Translate the library's errors while reading `repo_id`; `missing` describes a file that is not there.

    Raises:
        InputError: no such repository, revision, file or access; not in the cache while offline.
        HubError: the Hub or the network failed.
    """
    quiet_library()
    _check_token()
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
            f"{repo_id}: no such folder; it is not in the cache, and the Hub cannot be reached; "
            "check the name, the connection and HF_HUB_OFFLINE"
        ) from None
    except RepositoryNotFoundError:
        raise InputError(
            f"{repo_id}: no such folder, and no such model on the Hub (if it is private, set HF_TOKEN)"
        ) from None
    except EntryNotFoundError:
        raise InputError(f"{repo_id}: {missing}") from None
    except EmobakeError:
        raise
    except Exception as error:  # From the HTTP library, besides the Hub's own errors.
        raise HubError(
            f"{repo_id}: could not be fetched ({reason(error)}); run again to continue where it stopped"
        ) from None


@contextlib.contextmanager
def sending(repo_id: str, *, source: str = "", commit: str = "", dry_run: bool = False) -> Iterator[None]:
    """Translate the library's errors while writing to `repo_id`; `source` is a repository whose files are copied.

    A `dry_run` only looks at the repositories.

    Raises:
        InputError: not a valid id, no token or a broken one, no right to write there, or offline.
        HubError: the Hub or the network failed, or `commit` of `source` is gone.
    """
    quiet_library()
    _check_token()
    try:
        yield
    except EmobakeError:
        raise
    except HFValidationError:
        raise InputError(f"{repo_id}: is not a valid Hub id (owner/name)") from None
    except OfflineModeIsEnabled:
        raise offline(repo_id, dry_run=dry_run) from None
    except LocalTokenNotFoundError:
        raise no_token(repo_id) from None
    except LocalEntryNotFoundError as error:  # One of the next kind in huggingface_hub 0.
        raise _failed(repo_id, error, dry_run=dry_run) from None
    except HfHubHTTPError as error:
        gone = isinstance(error, RepositoryNotFoundError | RevisionNotFoundError | EntryNotFoundError)
        forbidden = status(error) in (401, 403)
        if (gone or forbidden) and source and f"/{source}/" in requested(error):
            raise HubError(
                f"{source}: commit {commit[:12]} is no longer there, or not yours to read any more; nothing was "
                "committed. Run again to start from what is there now"
            ) from None
        if forbidden:
            raise InputError(f"{repo_id}: {NO_RIGHT}") from None
        if gone:
            raise InputError(f"{repo_id}: no such repository, or no access to it; nothing was committed") from None
        raise _failed(repo_id, error, dry_run=dry_run) from None
    except Exception as error:  # From the HTTP library, besides the Hub's own errors.
        if isinstance(error, ValueError) and "metadata in README.md" in str(error):
            raise InputError(f"{repo_id}: {reason(error)}; repair the card, nothing was committed") from None
        raise _failed(repo_id, error, dry_run=dry_run) from None


def offline(repo_id: str, *, dry_run: bool) -> InputError:
    """The error for a push while the Hub must not be asked."""
    what = "nothing can be uploaded"
    if dry_run:
        what = "even a dry run asks the Hub what is there, and cannot"
    return InputError(f"{repo_id}: {what} while HF_HUB_OFFLINE is set")


def no_token(repo_id: str) -> InputError:
    """The error for a missing token."""
    return InputError(f"{repo_id}: no token; run hf auth login, or set HF_TOKEN, with a right to write")


def _check_token() -> None:
    # Some HTTP libraries fail on such a token in ways of their own, others send it.
    if not (get_token() or "").isascii():
        raise InputError(
            "HF_TOKEN, or the token that hf auth login stored, has characters that no token has; set it again"
        )


def _failed(repo_id: str, error: Exception, *, dry_run: bool) -> HubError:
    if status(error) == 429:
        return HubError(f"{repo_id}: the Hub limits the rate of requests; nothing was committed. Run again later")
    if status(error) in MOVED:
        return HubError(f"{repo_id}: somebody else writes there at the same time; nothing was committed. Run again")
    if dry_run:
        return HubError(
            f"{repo_id}: the Hub did not say what is there ({reason(error)}), so what a push would send is not known; "
            "run again when it can be reached"
        )
    return HubError(
        f"{repo_id}: could not be uploaded ({reason(error)}); nothing was committed. Run again to continue where it "
        "stopped"
    )
