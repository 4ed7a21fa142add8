"""push=owner/name: uploads a finished folder to the hub."""

import re
from pathlib import Path

from tsv_exp.checkpoints import writer
from tsv_exp.checkpoints.hub import failures as hub
from tsv_exp.checkpoints.sources import REPOSITORY
from tsv_exp.errors import UserError

_ID = re.compile(REPOSITORY)


def check_upload(repo: str) -> None:
    """Check the login and the repository name before anything is merged.

    Raises:
        UserError: the name is invalid, the user is not logged in, or the hub does not answer.
    """
    from huggingface_hub import HfApi, get_token

    if not _ID.fullmatch(repo):
        raise UserError(f"push={repo}: give the name of a repository, owner/name")
    if get_token() is None:
        raise UserError(f"push={repo}: log in first (hf auth login, or HF_TOKEN)")
    with hub.failures(f"push={repo}", upload=True):
        HfApi().whoami()


def upload(folder: Path, repo: str) -> str:
    """Upload a folder without its recipe; creates a missing repository as private. Returns its address.

    Raises:
        UserError: the hub rejects the upload or cannot be reached.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    before = are_progress_bars_disabled()
    disable_progress_bars()
    try:
        with hub.failures(f"push={repo}", upload=True):
            address = HfApi().create_repo(repo, private=True, exist_ok=True)
            hidden = [f"{writer.STATE}/*", f"{writer.STATE}/**", ".gitignore"]
            HfApi().upload_folder(
                repo_id=repo, folder_path=folder, ignore_patterns=hidden, commit_message="Merge by tsv_exp"
            )
    finally:
        if not before:
            enable_progress_bars()
    return str(address)
