import pytest
import torch
from models import matrix, zoo
from safetensors.torch import save_file


@pytest.fixture
def files(tmp_path):
    """base, finetuned and the words that name their files: one per format."""
    base, finetuned = zoo(3, torch.float32)
    g = torch.Generator().manual_seed(1)
    for model in (base, *finetuned.values()):  # large enough for the fast decompositions
        model["large.weight"] = matrix(128, 96, g, dtype=torch.float32)
    (tmp_path / "base").mkdir()
    save_file(base, tmp_path / "base" / "model.safetensors")
    (tmp_path / "base" / "config.json").write_text("{}")
    save_file(finetuned["task0"], tmp_path / "task0.safetensors")
    for task in ("task1", "task2"):
        torch.save(finetuned[task], tmp_path / f"{task}.pt")
    models = ",".join(str(tmp_path / name) for name in ("task0.safetensors", "task1.pt", "task2.pt"))
    return base, finetuned, [f"base={tmp_path / 'base'}", f"models=[{models}]", f"out={tmp_path / 'out'}"]
