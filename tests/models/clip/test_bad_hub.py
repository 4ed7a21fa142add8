"""A hub that is offline, slow, gated, missing or drops the connection: one line each, and nothing is fetched twice."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import worlds
from fresh import downloads, served, told
from hub import COMMIT, Hub

FAULTS = {
    f"clip_dtd/resolve/{COMMIT}/model.safetensors": "drop",
    f"clip_mnist/resolve/{COMMIT}/model.safetensors": "slow",
    f"clip_resisc45/resolve/{COMMIT}/model.safetensors": "drop once",
    "models/zoo/clip_eurosat/revision/main": "gated",
    "models/zoo/clip_gtsrb/revision/main": "503",
    "datasets/tanganke/eurosat": "gated",
    "datasets/tanganke/gtsrb": "401",
}
SAID = """
import os
import huggingface_hub.constants
import huggingface_hub.file_download as file_download
from datasets import arrow_writer
from tsv_exp.models import images

def full(*_, **__):
    raise OSError(28, "No space left on device")

clip = model()
tasks = clip.catalogue()
huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE = 10_000
huggingface_hub.constants.HF_HUB_DOWNLOAD_TIMEOUT = huggingface_hub.constants.HF_HUB_ETAG_TIMEOUT = 0.5
for name in ("DTD", "EuroSAT", "GTSRB", "MNIST", "RESISC45"):
    told[name] = line(lambda: clip.finetuned([tasks[name]]))
told["missing"] = line(lambda: model(pretrained="openai/nobody").base())
told["gated data"] = line(lambda: clip.split(tasks["EuroSAT"], "test"))
told["refused data"] = line(lambda: clip.split(tasks["GTSRB"], "test"))

whole, file_download.http_get = file_download.http_get, full
told["full: model"] = line(lambda: clip.finetuned([tasks["Cars"]]))
told["full: data"] = line(lambda: clip.split(tasks["Cars"], "test"))
told["full: known"] = line(lambda: clip.finetuned([tasks["RESISC45"]]))
file_download.http_get = whole
whole, arrow_writer.ArrowWriter.write_table = arrow_writer.ArrowWriter.write_table, full
told["full: converted"] = line(lambda: clip.split(tasks["Cars"], "test"))
arrow_writer.ArrowWriter.write_table = whole
images.Pictures.__getitem__ = full
told["full: images"] = line(lambda: clip.split(tasks["Cars"], "test"))
told["parts"] = [path.stat().st_size for path in Path(os.environ["HF_HOME"]).rglob("*.incomplete")]
told["left"] = [str(path) for path in Path(os.environ["TSV_EXP_CACHE"]).rglob("*.images")]
"""


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    with served(tmp_path_factory.mktemp("hub"), worlds.first(6), worlds.first(6), train=4, test=4) as server:
        yield server


@pytest.fixture(scope="module")
def said(hub: Hub, tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    hub.faults = FAULTS
    try:
        home = tmp_path_factory.mktemp("home")
        found = told(hub, home, SAID)
        return found | {"parquet": downloads(hub, ".parquet"), "ranges": list(hub.ranges)}
    finally:
        hub.faults = {}


def check(line: object, pattern: str) -> None:
    assert isinstance(line, str)
    assert "\n" not in line
    assert re.search(pattern, line), line


@pytest.mark.parametrize(
    ("case", "pattern"),
    [
        ("DTD", "model zoo/clip_dtd: .*broke off.*partial files remain"),
        ("EuroSAT", "model zoo/clip_eurosat: gated: accept its terms"),
        ("GTSRB", "model zoo/clip_gtsrb: .*answered 503; try again later"),
        ("MNIST", "model zoo/clip_mnist: .*cannot be reached or broke off.*try again"),
        ("missing", "model openai/nobody: .*no such repository.*check the name, log in, or give a local copy"),
        ("gated data", "data of EuroSAT .*gated"),
        ("refused data", "data of GTSRB .*answered 401; log in"),
    ],
)
def test_failures_are_one_line(said: dict[str, object], case: str, pattern: str) -> None:
    check(said[case], pattern)


def test_a_dropped_connection_is_taken_up_where_it_was(hub: Hub, said: dict[str, object]) -> None:
    size = (hub.root / "models/zoo/clip_resisc45/model.safetensors").stat().st_size
    assert said["RESISC45"] is None
    assert any(0 < size // 2 - start <= 10_000 for start in said["ranges"])


def test_the_part_of_a_file_that_arrived_is_kept(hub: Hub, said: dict[str, object]) -> None:
    size = (hub.root / "models/zoo/clip_dtd/model.safetensors").stat().st_size
    found = said["parts"]
    assert isinstance(found, list)
    assert any(size // 2 - 10_000 < part <= size // 2 for part in found)


def test_a_full_disk(said: dict[str, object]) -> None:
    for case, what in (
        ("model", "model zoo/clip_stanford-cars"),
        ("data", "data of Cars"),
        ("converted", "data of Cars"),
    ):
        check(said[f"full: {case}"], f"{what}.*: the disk is full; free space or set HF_HOME")
    check(
        said["full: images"], r"cannot write .*\.images: No space left on device; free space or choose another folder"
    )
    assert said["left"] == []
    assert said["full: known"] is None  # needs nothing new
    assert len(said["parquet"]) == 1  # kept when the disk was full later


@pytest.mark.parametrize(
    ("environment", "reason"),
    [({"HF_ENDPOINT": "http://127.0.0.1:9"}, "cannot be reached"), ({"HF_HUB_OFFLINE": "1"}, "HF_HUB_OFFLINE is set")],
)
def test_no_network_and_no_copy(hub: Hub, tmp_path: Path, environment: dict[str, str], reason: str) -> None:
    body = f"""
from tsv_exp.models.clip.model import _reader
told["base"] = line(model().base)
told["checkpoint"] = line(lambda: _reader("zoo/clip_dtd"))
clip = model(pretrained={str(hub.root / "models" / "openai" / "tiny")!r})  # its preprocessing is needed for data
told["data"] = line(lambda: clip.split(clip.catalogue()["DTD"], "test"))
"""
    found = told(hub, tmp_path, body, **environment)
    check(found["base"], f"model openai/tiny: .*{reason}.*give a local copy")
    check(found["checkpoint"], f"model zoo/clip_dtd: .*{reason}.*give a local copy")
    check(found["data"], rf"data of DTD \(tanganke/dtd, split test\): .*{reason}.*give a local copy")
