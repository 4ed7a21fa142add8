"""One-line errors for failures of the Hugging Face hub and of the disk during a download or an upload."""

import errno
import logging
from collections.abc import Iterator
from contextlib import contextmanager

from tsv_exp.errors import UserError

PARTIAL = "partial files remain"
REFUSED = (401, 403)
# No logs of single requests; errors are raised as well and become one line.
QUIET = dict.fromkeys(("httpx", "httpx2"), logging.WARNING)
QUIET |= dict.fromkeys(("datasets", "huggingface_hub"), logging.CRITICAL)


@contextmanager
def failures(what: str, upload: bool = False) -> Iterator[None]:
    """Convert failures of downloading `what` ("model openai/clip"), or of an upload, into UserErrors.

    Other errors pass through.
    """
    from huggingface_hub.constants import ENDPOINT, HF_HUB_OFFLINE
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    for name, level in QUIET.items():
        logging.getLogger(name).setLevel(level)
    kept, local = ("", "") if upload else (f" ({PARTIAL})", ", or give a local copy")
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        causes = list(_chain(error))
        # The error for a missing data set has no __cause__.
        unknown = next((str(cause) for cause in causes if type(cause).__name__ == "DatasetNotFoundError"), None)
        if any(isinstance(cause, OSError) and cause.errno == errno.ENOSPC for cause in causes):
            message = f"the disk is full; free space or set HF_HOME to another disk ({PARTIAL})"
        elif any(isinstance(cause, GatedRepoError) for cause in causes) or "gated" in (unknown or ""):
            message = f"gated: accept its terms at {ENDPOINT} and log in (hf auth login, or HF_TOKEN)"
        elif unknown or any(isinstance(cause, RepositoryNotFoundError | HFValidationError) for cause in causes):
            message = f"{ENDPOINT} has no such repository, or it is private; check the name, log in{local}"
        elif any(isinstance(cause, RevisionNotFoundError) for cause in causes):
            message = "there is no such revision; check the name behind @"
        elif answers := [cause.response.status_code for cause in causes if isinstance(cause, HfHubHTTPError)]:
            login = "log in (hf auth login, or a valid HF_TOKEN)" + " with the right to write" * upload
            message = f"{ENDPOINT} answered {answers[0]}; {login if answers[0] in REFUSED else 'try again later'}{kept}"
        elif any(broken(cause) for cause in causes):
            lacking = "" if upload else ", and there is no full local copy"
            if HF_HUB_OFFLINE:
                message = f"HF_HUB_OFFLINE is set{lacking}; unset it{local}"
            else:
                message = f"{ENDPOINT} cannot be reached or broke off{lacking}; try again{kept}{local}"
        else:
            raise
        raise UserError(f"{what}: {message}") from error


def broken(error: BaseException) -> bool:
    """Whether the hub could not be reached or the connection broke."""
    # By name: the hub's library has changed its HTTP client twice.
    kinds = {"LocalEntryNotFoundError", "ConnectionError", "TimeoutError", "TransportError"}
    return any(kind.__name__ in kinds for kind in type(error).__mro__)


def _chain(error: BaseException) -> list[BaseException]:
    """An exception with all its causes."""
    found: list[BaseException] = []
    queue: list[BaseException | None] = [error]
    while queue:
        current = queue.pop(0)
        if current is not None and current not in found:
            found.append(current)
            queue += [current.__cause__, current.__context__]
    return found
