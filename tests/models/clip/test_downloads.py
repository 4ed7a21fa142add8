"""Downloads that are killed, damaged, or redirected to another host."""

import hashlib
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import worlds
from fresh import downloads, served, started, told
from hub import COMMIT, Hub

WEIGHTS = f"clip_stanford-cars/resolve/{COMMIT}/model.safetensors"
IMAGES = "test-00000-of-00001.parquet"
FETCH = """
import huggingface_hub.constants
from tsv_exp.checkpoints.sources import locate

huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE = 10_000
told["model"] = line(lambda: locate("zoo/clip_stanford-cars"))
told["data"] = line(lambda: worlds.examples(worlds.first(1)[0], "test"))
"""


@pytest.fixture
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    with served(tmp_path_factory.mktemp("hub"), worlds.first(1), worlds.first(1), train=4, test=30) as server:
        yield server


def parts(home: Path) -> list[Path]:
    """What is left of unfinished downloads."""
    return list((home / "hf").rglob("*.incomplete"))


def killed(hub: Hub, home: Path, ending: str) -> int:
    """Bytes that a process had fetched of a file when it was killed."""
    hub.faults = {ending: "hang"}
    program = started(hub, home, FETCH)
    until = time.monotonic() + 120
    while not (downloads(hub, ending) and any(part.stat().st_size for part in parts(home))):
        assert time.monotonic() < until
        time.sleep(0.05)
    program.process.kill()
    assert program.result().returncode == -signal.SIGKILL
    (part,) = parts(home)
    assert part.stat().st_size > 0
    return part.stat().st_size


def whole(home: Path) -> bool:
    """Whether every large file in the hub's cache is what its name says, and nothing else is left."""
    blobs = [blob for blob in (home / "hf").rglob("blobs/*") if len(blob.name) == 64]
    found = [hashlib.sha256(blob.read_bytes()).hexdigest() == blob.name for blob in blobs]
    return len(found) >= 2 and all(found) and not parts(home)


def test_killed_downloads_go_on_where_they_were(hub: Hub, tmp_path: Path) -> None:
    of_weights = killed(hub, tmp_path, WEIGHTS)
    of_images = killed(hub, tmp_path, IMAGES)
    assert of_weights in hub.ranges
    assert len(downloads(hub, WEIGHTS)) == 1
    # the rest comes from another host, as the real hub's large files do, and that is told no token
    hub.faults = {IMAGES: "elsewhere"}
    found = told(hub, tmp_path, FETCH, HF_TOKEN="hf_secret")
    assert found["model"] is found["data"] is None
    assert of_images in hub.ranges
    assert downloads(hub, WEIGHTS) == []
    assert hub.told == {"127.0.0.1"}
    assert whole(tmp_path)


def test_what_arrives_damaged_is_not_kept(hub: Hub, tmp_path: Path) -> None:
    hub.faults = {WEIGHTS: "damaged once", IMAGES: "damaged once"}
    again = FETCH.replace('told["', 'told["again: ')
    found = told(hub, tmp_path, FETCH + again)
    for case, repository in (("model", "zoo/clip_stanford-cars"), ("data", "tanganke/stanford_cars")):
        line = rf"{repository}/\S+: the download was damaged and has been removed; try again"
        assert re.fullmatch(line, str(found[case]))
        assert found[f"again: {case}"] is None
    assert hub.ranges == [0] * len(hub.ranges)
    assert whole(tmp_path)
    gone = told(hub, tmp_path, FETCH, HF_ENDPOINT="http://127.0.0.1:9")  # nobody listens, but the cache has it all
    assert gone["model"] is None
