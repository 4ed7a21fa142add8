"""Downloads large files into the hub's own cache; a killed download resumes where it stopped.

huggingface_hub resumes after a dropped connection, but version 2.4 deletes the partial file of a failed or killed
download. This module keeps the partial file, under the name that older versions used: `<SHA-256>.incomplete`.
"""

import re
from collections.abc import Iterable
from pathlib import Path

from tsv_exp.checkpoints.hub import failures as hub
from tsv_exp.checkpoints.readers import file_digest
from tsv_exp.errors import UserError
from tsv_exp.storage.files import cache_dir, locked

CONTENT = re.compile("[0-9a-f]{64}")  # the hub's tag of a large file: its SHA-256
DATA = re.compile(r"hf://datasets/(?P<repo>[^@]+)@(?P<revision>[^/]+)/(?P<name>.+)")


def model(repo: str, revision: str | None, weights: str, others: Iterable[str]) -> Path:
    """The folder with a model repository's files.

    Args:
        repo: owner/name.
        revision: branch, tag or commit; None is the main branch.
        weights: pattern of the large files.
        others: patterns of the small files.

    Raises:
        UserError: the downloaded file is damaged.
        Exception: errors that `hub.failures` converts to UserErrors.
    """
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError
    from huggingface_hub.utils import filter_repo_objects

    try:
        info = HfApi().model_info(repo, revision=revision)
    except Exception as error:
        if not isinstance(error, HfHubHTTPError) and not hub.broken(error):
            raise
        # Everything may be cached; if not, the download below starts again.
    else:
        names = [file.rfilename for file in info.siblings or ()]
        for name in filter_repo_objects(names, allow_patterns=[weights]):
            _bring(repo, name, "model", str(info.sha))
    return Path(snapshot_download(repo, revision=revision, allow_patterns=[weights, *others]))


def file(repo: str, revision: str, name: str) -> Path:
    """One file of a model repository.

    Raises:
        As `model`.
    """
    from huggingface_hub import hf_hub_download

    _bring(repo, name, "model", revision)
    return Path(hf_hub_download(repo, name, revision=revision))


def data(files: Iterable[str]) -> list[str]:
    """Local paths of files of data sets (hf://datasets/owner/name@revision/path), downloaded if they are not cached.

    Other addresses are returned unchanged.

    Raises:
        As `model`.
    """
    from huggingface_hub import hf_hub_download

    places = []
    for file in files:
        if found := DATA.fullmatch(file):
            repo, name, revision = found["repo"], found["name"], found["revision"]
            _bring(repo, name, "dataset", revision)
            places.append(hf_hub_download(repo, name, repo_type="dataset", revision=revision))
        else:
            places.append(file)
    return places


def _bring(repo: str, name: str, kind: str, revision: str) -> None:
    """Download one file to where the hub's library looks for it, if it is large and missing."""
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
    from huggingface_hub.file_download import http_get, repo_folder_name
    from huggingface_hub.utils import build_hf_headers

    if isinstance(try_to_load_from_cache(repo, name, revision=revision, repo_type=kind), str):
        return
    url = hf_hub_url(repo, name, repo_type=kind, revision=revision)
    announced = get_hf_file_metadata(url)
    if not CONTENT.fullmatch(announced.etag or "") or (announced.size or 0) > constants.MAX_HTTP_DOWNLOAD_SIZE:
        return
    blob = Path(constants.HF_HUB_CACHE, repo_folder_name(repo_id=repo, repo_type=kind), "blobs", str(announced.etag))
    part, shown = blob.with_name(f"{blob.name}.incomplete"), f"{repo}/{name}"
    part.parent.mkdir(parents=True, exist_ok=True)
    with locked(cache_dir() / "locks" / f"download-{blob.name[:20]}"):
        if blob.exists():
            return
        with part.open("ab") as file:
            if announced.size is not None and file.tell() > announced.size:  # two processes have written to it
                file.truncate(0)
            headers, start = build_hf_headers(), part.stat().st_size
            http_get(
                url, file, resume_size=start, headers=headers, expected_size=announced.size, displayed_filename=shown
            )
        if file_digest(part) != blob.name:
            part.unlink()
            raise UserError(f"{shown}: the download was damaged and has been removed; try again")
        part.replace(blob)
