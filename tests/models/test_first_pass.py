"""What a router reads of every kind of model: which layers run in one pass, and which of their tokens count."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from encoders import network, saved, sentences
from torch import Tensor

from tsv_exp.config import Engine
from tsv_exp.evaluation.evaluator import Evaluator
from tsv_exp.evaluation.routing import fitted_router, route
from tsv_exp.merging.task_vectors import TaskVectors
from tsv_exp.models.protocol import Model
from tsv_exp.models.text.choices import CausalLM
from tsv_exp.models.text.generation import TextToText
from tsv_exp.models.text.model import TextEncoder
from tsv_exp.routing.likelihood import Likelihood
from tsv_exp.routing.tokens import Support
from tsv_exp.tasks.task import Split, Task

CPU = torch.device("cpu")
CLASSES = ("good", "bad", "fine")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TSV_EXP_CACHE", str(tmp_path / "cache"))


def supports(model: Model, task: Task) -> dict[str, Support]:
    """Which tokens of which layers count; routes the task's test examples on the way."""
    generator = torch.Generator().manual_seed(0)
    base = model.base()

    def moved() -> dict[str, Tensor]:
        return {n: w + 0.1 * torch.randn(w.shape, generator=generator) if w.dim() == 2 else w for n, w in base.items()}

    evaluator = Evaluator(model, [task], CPU, "float32", batch_size=16)
    engine = Engine(svd="exact").of(model.exclude)
    stream = TaskVectors.of(base, {"one": moved(), "two": moved()}, engine)
    fitted = fitted_router(Likelihood(narrowing=True), evaluator, stream, engine)
    chosen = route(fitted, evaluator, task.name, "test")
    assert chosen.shape == (len(model.split(task, "test")),)
    assert set(chosen.tolist()) <= {0, 1}
    return fitted.supports


def mood(folder: Path, template: str = "a {} film") -> Task:
    source = {"data": {"path": str(sentences(folder)), "input": "text", "label": "label"}}
    return Task("mood", CLASSES, (template,), source, "accuracy")


def kinds(found: dict[str, Support], part: str) -> set[Support]:
    return {kind for name, kind in found.items() if part in name}


@pytest.mark.parametrize(("pooling", "last"), [("mean", "all"), ("cls", "first")])
def test_encoders(tmp_path: Path, pooling: Any, last: Support) -> None:
    base = saved(tmp_path / "base", network("bert"))
    model = TextEncoder("toy", str(base), {}, pooling=pooling, device="cpu", length=10)
    found = supports(model, mood(tmp_path / "data"))
    assert kinds(found, "layer.0.") == {"all"}
    assert kinds(found, "layer.1.intermediate") == kinds(found, "layer.1.output") == {last}
    assert kinds(found, "layer.1.attention.self.key") == {"all"}
    assert kinds(found, "layer.1.attention.self.query") == {last}  # the class token asks all others


def test_language_models_read_the_prompt(tmp_path: Path) -> None:
    base = saved(tmp_path / "base", network("llama", "CausalLM"))
    found = supports(CausalLM("toy", str(base), {}, device="cpu"), mood(tmp_path / "data", "film {} is"))
    assert kinds(found, "layers.0.mlp") == {"all"}
    assert kinds(found, "layers.1.mlp") == {"last"}


def test_generators_read_the_prompt_by_their_encoder(tmp_path: Path) -> None:
    base = saved(tmp_path / "base", network("t5", "Seq2SeqLM"))
    found = supports(TextToText("toy", str(base), {}, device="cpu"), mood(tmp_path / "data", "film {} is"))
    assert set(found.values()) == {"all"}
    assert all(name.startswith("encoder.") for name in found)


def test_clip_reads_the_class_token_in_its_last_mlp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [str(Path(__file__).parent), *sys.path])
    import worlds
    from safetensors.torch import save_file

    from tsv_exp.models.clip.model import ClipModel

    save_file(worlds.whole(0), tmp_path / "base.safetensors")

    class Clip(ClipModel):
        def split(self, task: Task, split: Any) -> Split:
            images = torch.randint(256, (17, 3, 32, 32), dtype=torch.uint8)  # as many images as tokens
            return Split(images, torch.zeros(17, dtype=torch.int64))

        def head(self, task: Task) -> Tensor:
            return torch.randn(3, 12)

        def identity(self, task: Task) -> str:
            return task.name

    model = Clip("toy", worlds.ARCHITECTURE, str(tmp_path / "base.safetensors"), {})
    found = supports(model, Task("mood", CLASSES, ("{}",)))
    assert kinds(found, "resblocks.0.mlp") == {"all"}
    assert kinds(found, "resblocks.1.mlp") == {"first"}
    assert kinds(found, "resblocks.1.attn.in_proj_weight") == {"all"}
