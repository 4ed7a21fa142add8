"""The commands of docs/adapters.md and docs/merge_config.md, typed as they stand there, on small files."""

import re
import shlex
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import save_file

from tsv_exp.merge_files.merge import run
from tsv_exp.merge_files.options.command_line import options_of

DOCS = Path(__file__).parents[2] / "docs"
SHAPES = {"embed.weight": (12, 8), "0.mlp.up.weight": (16, 8), "0.self_attn.q.weight": (8, 8), "0.norm.weight": (8,)}


def commands(page: str) -> list[list[str]]:
    """The words of every tsv-merge command of a page."""
    blocks = re.findall(r"```bash\n(.*?)```", (DOCS / page).read_text(encoding="utf-8"), re.S)
    lines = [line for block in blocks for line in block.splitlines() if line.startswith("tsv-merge")]
    return [shlex.split(line)[1:] for line in lines]


def recipe() -> str:
    """The YAML of docs/merge_config.md."""
    return re.findall(r"```yaml\n(.*?)```", (DOCS / "merge_config.md").read_text(encoding="utf-8"), re.S)[0]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The models, adapters and files that the pages name."""
    monkeypatch.chdir(tmp_path)
    generator = torch.Generator().manual_seed(0)

    def weights() -> dict[str, torch.Tensor]:
        return {name: torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}

    for name in ("base", "tuned-math", "tuned-code"):
        (tmp_path / name).mkdir()
        save_file(weights(), tmp_path / name / "model.safetensors")
    for name in ("lora-math", "lora-code", "lora-chat"):
        factors = {
            f"base_model.model.{module.removesuffix('.weight')}.lora_{side}.weight": torch.randn(
                size, generator=generator
            )
            for module, (m, n) in list(SHAPES.items())[1:3]
            for side, size in (("A", (2, n)), ("B", (m, 2)))
        }
        (tmp_path / name).mkdir()
        save_file(factors, tmp_path / name / "adapter_model.safetensors")
        (tmp_path / name / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 2, "lora_alpha": 4}')
    for name in ("pipeline", "pipeline-a", "pipeline-b"):
        for component in ("unet", "text_encoder"):
            (tmp_path / name / component).mkdir(parents=True)
            save_file(weights(), tmp_path / name / component / "model.safetensors")
        (tmp_path / name / "model_index.json").write_text("{}")
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipe.yaml").write_text(recipe())
    shutil.copy(tmp_path / "recipe.yaml", tmp_path / "recipes")
    models = [{"model": f"tuned-{name}", "parameters": {"weight": 0.5}} for name in ("math", "code")]
    kit = {"merge_method": "linear", "models": models, "base_model": "base", "dtype": "float32"}
    (tmp_path / "mergekit.yaml").write_text(yaml.safe_dump(kit))
    return tmp_path


@pytest.mark.parametrize("page", ["adapters.md", "merge_config.md"])
def test_commands_run_as_typed(folder: Path, page: str) -> None:
    typed = [words for words in commands(page) if not any(word.startswith("push=") for word in words)]
    assert typed
    for words in typed:
        options = options_of(words)
        run(options)
        assert any(options.out.rglob("*.safetensors"))
