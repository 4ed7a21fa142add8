"""tsv-exp on a toy CLIP, as a user types it, against a hub on loopback."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from safetensors.torch import load_file

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

import worlds  # noqa: E402
from fresh import command, downloads, told  # noqa: E402
from hub import Hub  # noqa: E402


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    root = tmp_path_factory.mktemp("hub")
    worlds.models(root, worlds.first(8))
    worlds.data(root, worlds.first(8))
    with Hub(root).running() as server:
        yield server


def results(home: Path) -> list[dict]:
    return [json.loads(path.read_text(encoding="utf-8")) for path in sorted(home.glob("outputs/**/results.json"))]


def test_one_run(hub: Hub, tmp_path: Path) -> None:
    found = told(hub, tmp_path, f"told['code'] = run(*{command(tmp_path, 'tasks=[EuroSAT,SVHN]')!r})")
    assert found["code"] == 0
    (result,) = results(tmp_path)
    assert result["status"] == "ok"
    assert result["checkpoints"]["family"] == "hub"
    assert set(result["test"]["accuracy"]) == {"EuroSAT", "SVHN"}
    assert len(result["validation"]) == 30
    assert set(result["finetuned"]["validation"]) == {"EuroSAT", "SVHN"}


def test_a_given_alpha_needs_no_validation_images(hub: Hub, tmp_path: Path) -> None:
    overrides = command(tmp_path, "tasks=[EuroSAT,SVHN]", "alpha=fixed", "alpha.value=1", "save_merged=true")
    assert told(hub, tmp_path, f"told['code'] = run(*{overrides!r})")["code"] == 0
    (result,) = results(tmp_path)
    assert result["finetuned"]["validation"] == {}
    assert set(result["finetuned"]["test"]) == {"EuroSAT", "SVHN"}
    assert len(downloads(hub, ".parquet")) == 2
    assert not downloads(hub, "train-00000-of-00001.parquet")
    (saved,) = result["saved"]
    assert saved.endswith("merged.safetensors")
    assert "visual.proj" in load_file(saved)
    assert f"merged model written to {saved}" in (Path(saved).parent / "tsv-exp.log").read_text()
