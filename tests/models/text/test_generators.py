"""Networks that generate, and networks that choose, against transformers one example at a time."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from encoders import WORDS, network, saved, sentences
from safetensors.torch import save_file
from torch import Tensor

from tsv_exp import apply, merge
from tsv_exp.errors import UserError
from tsv_exp.evaluation.evaluator import Evaluator
from tsv_exp.finetuning.training import Recipe, finetune
from tsv_exp.models.text.choices import CausalLM
from tsv_exp.models.text.generation import TextToText
from tsv_exp.tasks.task import Task

CPU = torch.device("cpu")
CLASSES = ("good", "bad", "very fine")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TSV_EXP_CACHE", str(tmp_path / "cache"))


def task(folder: Path, metric: str = "exact_match", classes: tuple[str, ...] = CLASSES) -> Task:
    source = {"data": {"path": str(folder), "input": "text", "label": "label"}}
    return Task("mood", classes, ("film {} is",), source, metric)


def moved(base: Any, seed: int) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(seed)
    return {name: weight + 0.1 * torch.randn(weight.shape, generator=g) for name, weight in base.items()}


def texts(model: Any, split: Any) -> list[str]:
    return [" ".join(WORDS[number - 5] for number in row[1:-1].tolist()) for row in split.inputs.columns["input_ids"]]


def opened(kind: str, folder: Path, weights: dict[str, Tensor]) -> Any:
    import transformers

    whole = getattr(transformers, f"AutoModelFor{kind}").from_pretrained(folder)
    whole.load_state_dict(weights, strict=False)
    return whole.eval(), transformers.AutoTokenizer.from_pretrained(folder)


def test_generated_words_are_the_answer(tmp_path: Path) -> None:
    base = saved(tmp_path / "base", network("t5", "Seq2SeqLM"))
    model = TextToText("toy", str(base), {"mood": str(tmp_path / "mood.safetensors")}, device="cpu")
    mood = task(sentences(tmp_path / "data", 240))
    trained = model.trainee(mood)
    loss = partial(model.loss, task=mood)
    recipe = Recipe(lr=5e-3, steps=120, batch_size=32, precision="float32")
    finetune(trained, loss, model.prepare, model.split(mood, "train"), recipe, 0)
    state = {name: weight for name, weight in trained.state_dict().items() if name in model.base()}
    save_file(state, tmp_path / "mood.safetensors")
    tuned = model.finetuned([mood])
    assert list(tuned["mood"]) == list(model.base())
    merged = merge(model.base(), tuned, "task_arithmetic")
    evaluator = Evaluator(model, [mood], CPU, "float32", batch_size=50)
    assert evaluator.accuracy(merged, 1.0, "mood", "test") > 0.6  # chance is a third
    whole, tokenizer = opened("Seq2SeqLM", base, apply(model.base(), merged, 0.6))
    split = model.split(mood, "test")
    answers = []
    for prompt in texts(model, split):
        ids = tokenizer(prompt, return_tensors="pt")["input_ids"]
        generated = whole.generate(ids, max_new_tokens=10, do_sample=False)
        answers.append(tokenizer.batch_decode(generated, skip_special_tokens=True)[0].strip())
    expected = [answer == CLASSES[label] for answer, label in zip(answers, split.labels.tolist(), strict=True)]
    right = evaluator.correct(merged, 0.6, "mood", "test")
    assert right is not None
    assert right.tolist() == expected


def test_values_are_read_from_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = TextToText("toy", str(saved(tmp_path / "base", network("t5", "Seq2SeqLM"))), {}, device="cpu")
    alike = task(sentences(tmp_path / "data", 12), "spearman", ())
    split = model.split(alike, "test")
    assert split.labels.dtype is torch.float32
    said = iter([["2.0", "0.4 "], ["much", ""]])
    monkeypatch.setattr(type(model._tokenizer), "batch_decode", lambda *_, **__: next(said))
    batch = model.prepare(split.inputs[0:2], CPU)
    encoder = model.encoder()
    found = [model.predict(encoder, batch, alike).tolist() for _ in range(2)]
    assert found == [[2.0, pytest.approx(0.4)], [0.0, 0.0]]
    assert model.loss(encoder, batch, split.labels[:2], alike).isfinite()


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_logits_are_log_likelihoods_of_the_answers(kind: str, tmp_path: Path) -> None:
    base = saved(tmp_path / "base", network(kind, "CausalLM"))
    model = CausalLM("toy", str(base), {}, length=40, device="cpu")
    mood = task(sentences(tmp_path / "data", 9))
    merged = merge(model.base(), {"mood": moved(model.base(), 1)}, "individual")
    encoder = model.encoder()
    encoder.load_state_dict(apply(model.base(), merged, 1.0, "mood"), strict=False)
    split = model.split(mood, "test")
    with torch.no_grad():
        found = model.logits(encoder, model.prepare(split.inputs[:], CPU), mood)
    whole, tokenizer = opened("CausalLM", base, apply(model.base(), merged, 1.0, "mood"))
    for row, ids in enumerate(split.inputs.columns["input_ids"]):
        for place, name in enumerate(CLASSES):
            answer = tokenizer(f" {name}", add_special_tokens=False)["input_ids"]
            both = torch.cat([ids.long(), torch.tensor(answer)])
            with torch.no_grad():
                logs = whole(both[None]).logits[0].log_softmax(-1)
            expected = sum(logs[len(ids) - 1 + i, token] for i, token in enumerate(answer))
            assert found[row, place] == pytest.approx(float(expected), abs=1e-3)
    evaluator = Evaluator(model, [mood], CPU, "float32", batch_size=4)
    accuracy = (found.argmax(1) == split.labels).double().mean().item()
    assert evaluator.accuracy(merged, 1.0, "mood", "test") == pytest.approx(accuracy)
    with pytest.raises(UserError, match="task mood: a language model chooses among classes"):
        model.logits(encoder, model.prepare(split.inputs[:], CPU), task(tmp_path / "data", "spearman", ()))


def test_a_language_model_learns_its_answers(tmp_path: Path) -> None:
    base = saved(tmp_path / "base", network("llama", "CausalLM"))
    model, mood = CausalLM("toy", str(base), {}, device="cpu"), task(sentences(tmp_path / "data", 240))
    trained = model.trainee(mood)
    recipe = Recipe(lr=5e-3, steps=80, batch_size=32, precision="float32")
    finetune(trained, partial(model.loss, task=mood), model.prepare, model.split(mood, "train"), recipe, 0)
    split = model.split(mood, "test")
    with torch.no_grad():
        predicted = model.predict(trained, model.prepare(split.inputs[:], CPU), mood)
    assert (predicted == split.labels).double().mean() > 0.6


def test_tied_parameters_are_merged_once(tmp_path: Path) -> None:
    model = TextToText("toy", str(saved(tmp_path / "base", network("t5", "Seq2SeqLM"))), {}, device="cpu")
    assert [name for name in model.base() if "embed_tokens" in name or name in ("shared.weight", "lm_head.weight")] == [
        "shared.weight"
    ]
    gpt = CausalLM("toy", str(saved(tmp_path / "gpt", network("gpt2", "CausalLM"))), {}, device="cpu")
    assert "lm_head.weight" not in gpt.base()
    bare = saved(tmp_path / "bare", network("gpt2", ""))  # as gpt2 itself is published
    assert list(CausalLM("toy", str(bare), {}).base()) == list(gpt.base())


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # peft's use of transformers
def test_adapters_of_peft_on_an_encoder_decoder(tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    base = saved(tmp_path / "base", network("t5", "Seq2SeqLM"))
    plain = network("t5", "Seq2SeqLM")
    adapted = get_peft_model(plain, LoraConfig(r=2, target_modules=["q", "v"], init_lora_weights=False))
    adapted.save_pretrained(tmp_path / "lora")
    model = TextToText("toy", str(base), {"mood": str(tmp_path / "lora")}, device="cpu")
    tuned = model.finetuned([task(tmp_path)])
    merged = apply(model.base(), merge(model.base(), tuned, "individual"), 1.0, "mood")
    expected = adapted.merge_and_unload().state_dict()
    assert all(torch.allclose(weight, expected[name], atol=1e-6) for name, weight in merged.items())
    changed = [name for name in merged if not torch.equal(merged[name], model.base()[name])]
    assert len(changed) == 2 * 2 + 2 * 4
