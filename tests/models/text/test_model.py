"""The text encoder against transformers' own forward passes, for the architectures that are common."""

from pathlib import Path
from typing import Any

import pytest
import torch
from encoders import KINDS, WORDS, network, saved, sentences, tokenizer
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.functional import normalize

from tsv_exp import merge
from tsv_exp.config import Engine
from tsv_exp.errors import UserError
from tsv_exp.evaluation.evaluator import Evaluator
from tsv_exp.evaluation.routing import fitted_router, route
from tsv_exp.merging.task_vectors import TaskVectors
from tsv_exp.models.text.model import TextEncoder
from tsv_exp.routing.likelihood import Likelihood
from tsv_exp.tasks.task import Task

CPU = torch.device("cpu")
CLASSES = ("good", "bad", "fine")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TSV_EXP_CACHE", str(tmp_path / "cache"))


def model(base: Path, checkpoints: Any = None, **changes: Any) -> TextEncoder:
    return TextEncoder("toy", str(base), checkpoints or {}, device="cpu", length=10, **changes)


def task(folder: Path, name: str = "mood", metric: str = "accuracy", classes: tuple[str, ...] = CLASSES) -> Task:
    source = {"data": {"path": str(folder), "input": "text", "label": "label"}}
    return Task(name, classes, ("a {} film", "{}"), source, metric)


def reference(folder: Path, texts: list[str], head: str = "") -> Any:
    """What transformers itself makes of texts, one at a time, without padding."""
    import transformers

    whole = getattr(transformers, f"AutoModel{head}").from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    with torch.no_grad():
        return [whole(**tokenizer(text, truncation=True, max_length=10, return_tensors="pt")) for text in texts]


@pytest.mark.parametrize("kind", KINDS)
def test_frozen_heads_are_class_prompts_through_the_base(kind: str, tmp_path: Path) -> None:
    base = saved(
        tmp_path / "base", network(kind)
    )  # as pre-trained models are published: with their masked-language head
    made, mood = model(base, scale=7.0), task(sentences(tmp_path / "data"))
    prompts = [[f"a {name} film", name] for name in CLASSES]
    means = [
        torch.stack([normalize(found.last_hidden_state[0].mean(0), dim=0) for found in reference(base, pair)]).mean(0)
        for pair in prompts
    ]
    expected = 7.0 * torch.stack([normalize(mean, dim=0) for mean in means])
    assert torch.allclose(made.head(mood), expected, atol=1e-4)
    split = made.split(mood, "test")
    texts = [" ".join(WORDS[number - 5] for number in row[1:-1].tolist()) for row in split.inputs.columns["input_ids"]]
    features = torch.stack([normalize(found.last_hidden_state[0].mean(0), dim=0) for found in reference(base, texts)])
    with torch.no_grad():
        logits = made.logits(made.encoder(), made.prepare(split.inputs[:], CPU), mood)
    assert torch.allclose(logits, features @ expected.T, atol=1e-4)
    assert len(split) == 60
    lengths = split.inputs.lengths.tolist()
    assert lengths == sorted(lengths)
    assert max(lengths) == 10  # cut off


@pytest.mark.parametrize("kind", KINDS)
def test_classifiers_of_checkpoints_are_transformers_own(kind: str, tmp_path: Path) -> None:
    tuned = saved(tmp_path / "tuned", network(kind, "SequenceClassification", seed=1))
    base = saved(tmp_path / "base", network(kind, "SequenceClassification", seed=2))
    made, mood = model(base, {"mood": str(tuned)}, head="classifier"), task(sentences(tmp_path / "data"))
    found = made.finetuned([mood])["mood"]
    assert found.keys() == made.base().keys()
    encoder = made.encoder()
    encoder.load_state_dict(dict(found))
    split = made.split(mood, "test")
    texts = [" ".join(WORDS[number - 5] for number in row[1:-1].tolist()) for row in split.inputs.columns["input_ids"]]
    expected = torch.cat([output.logits for output in reference(tuned, texts, "ForSequenceClassification")])
    with torch.no_grad():
        logits = made.logits(encoder, made.prepare(split.inputs[:], CPU), mood)
    assert torch.allclose(logits, expected, atol=1e-4)
    evaluator = Evaluator(made, [mood], CPU, "float32", batch_size=7)
    individual = merge(made.base(), {"mood": found}, "individual")
    accuracy = (expected.argmax(1) == split.labels).double().mean().item()
    assert evaluator.accuracy(individual, 1.0, "mood", "test") == pytest.approx(accuracy)
    stream = TaskVectors(made.base(), {"mood": found})
    routed = route(fitted_router(Likelihood(), evaluator, stream, Engine()), evaluator, "mood", "test")
    assert not routed.any()  # there is one task; that a pass made the head must not harm the router's gradients


def test_labels_in_another_order_than_the_classes(tmp_path: Path) -> None:
    names = {0: "BAD", 1: "Fine", 2: "good"}
    tuned = saved(tmp_path / "tuned", network("bert", "SequenceClassification", seed=1, id2label=names))
    base = saved(tmp_path / "base", network("bert"))
    mood = task(sentences(tmp_path / "data"))
    plain = {"pooler.dense.weight": torch.eye(32), "pooler.dense.bias": torch.zeros(32)}
    weights = load_file(base / "model.safetensors") | {f"bert.{name}": value for name, value in plain.items()}
    save_file(weights, base / "model.safetensors")
    made = model(base, {"mood": str(tuned)}, head="classifier")
    encoder = made.encoder()
    encoder.load_state_dict(dict(made.finetuned([mood])["mood"]))
    expected = torch.cat([found.logits for found in reference(tuned, ["good film"], "ForSequenceClassification")])
    batch = made.prepare(made._tokens(["good film"])[:], CPU)
    with torch.no_grad():
        assert torch.allclose(made.logits(encoder, batch, mood), expected[:, [2, 0, 1]], atol=1e-5)
    other = task(tmp_path / "data", classes=("good", "bad", "ugly"))
    with pytest.raises(UserError, match="labels are BAD, Fine, good, and the task's classes good, bad, ugly"):
        model(base, {"mood": str(tuned)}, head="classifier").logits(encoder, batch, other)


def test_pairs_of_texts_and_values(tmp_path: Path) -> None:
    tuned = saved(tmp_path / "tuned", network("bert", "SequenceClassification", seed=1, outputs=1))
    tokenizer(tuned, "token_type_ids")
    made = model(tuned, {"alike": str(tuned)}, head="classifier")
    folder = sentences(tmp_path / "data", count=12, pairs=True)
    source = {"data": {"path": str(folder), "input": ["text", "second"], "label": "label"}}
    alike = Task("alike", (), (), source, "spearman")
    split = made.split(alike, "test")
    assert split.labels.dtype is torch.float32
    assert split.inputs[:]["token_type_ids"].unique().tolist() == [0, 1]
    evaluator = Evaluator(made, [alike], CPU, "float32")
    individual = merge(made.base(), made.finetuned([alike]), "individual")
    assert -1 <= evaluator.accuracy(individual, 1.0, "alike", "test") <= 1
    assert evaluator.correct(individual, 1.0, "alike", "test") is None


def test_words_with_gamma_and_beta_are_an_older_encoder(tmp_path: Path) -> None:
    base = saved(tmp_path / "base", network("bert"))
    weights = load_file(base / "model.safetensors")
    old = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): value
        for name, value in weights.items()
    }
    expected = dict(model(base).base())
    save_file(old, base / "model.safetensors")
    found = model(base).base()
    assert all(torch.equal(found[name], weight) for name, weight in expected.items())


def test_embeddings_are_no_matrices_by_default(tmp_path: Path) -> None:
    from tsv_exp.config import Engine
    from tsv_exp.merging.task_vectors import TaskVectors

    made = model(saved(tmp_path / "base", network("bert")))
    moved = {name: weight + torch.randn_like(weight) for name, weight in made.base().items()}
    stream = TaskVectors.of(made.base(), {"a": moved}, Engine().of(made.exclude))
    matrices = [name for name in stream.names if stream.is_matrix(name)]
    assert len(matrices) == 2 * 6
    assert not [name for name in matrices if "embeddings" in name]
    chosen = TaskVectors.of(made.base(), {"a": moved}, Engine(exclude=[]).of(made.exclude))
    assert chosen.is_matrix("embeddings.word_embeddings.weight")


@pytest.mark.parametrize("head", ["prompts", "classifier"])
def test_what_is_trained_learns_and_is_read_again(head: str, tmp_path: Path) -> None:
    from functools import partial

    from tsv_exp.finetuning.training import Recipe, finetune

    base = saved(tmp_path / "base", network("bert", "SequenceClassification"))
    made, mood = (
        model(base, {"mood": str(tmp_path / "mood.safetensors")}, head=head),
        task(sentences(tmp_path / "data", 300)),
    )
    network_, recipe = made.trainee(mood), Recipe(lr=3e-3, steps=200, batch_size=20, precision="float32")
    torch.manual_seed(0)
    finetune(network_, partial(made.loss, task=mood), made.prepare, made.split(mood, "train"), recipe, 0)
    save_file(network_.state_dict(), tmp_path / "mood.safetensors")
    evaluator = Evaluator(made, [mood], CPU, "float32")
    accuracy = evaluator.accuracy(merge(made.base(), made.finetuned([mood]), "individual"), 1.0, "mood", "test")
    assert accuracy > 0.8
    zero = evaluator.accuracy(merge(made.base(), made.finetuned([mood]), "zero_shot"), 0.0, "mood", "test")
    assert zero < accuracy


def test_identity_follows_what_a_score_depends_on(tmp_path: Path) -> None:
    base, other = saved(tmp_path / "base", network("bert")), saved(tmp_path / "other", network("bert", seed=3))
    mood, more = task(sentences(tmp_path / "data")), task(sentences(tmp_path / "more", seed=1))
    found = [
        model(base).identity(mood),
        model(base).identity(more),
        model(other).identity(mood),
        model(base, pooling="cls").identity(mood),
        model(base, scale=3.0).identity(mood),
    ]
    assert len(set(found)) == len(found)
    assert model(base).identity(mood) == found[0]


def test_what_cannot_be_used_is_one_line(tmp_path: Path) -> None:
    base, empty = saved(tmp_path / "base", network("bert")), tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(UserError, match=r"model\.head=linear: choose from: prompts, classifier"):
        model(base, head="linear")
    with pytest.raises(UserError, match=r"model\.pooling=max: choose from: mean, cls"):
        model(base, pooling="max")
    with pytest.raises(UserError, match=r"model\.pretrained=.*empty: no config\.json of an encoder"):
        model(empty).encoder()
    with pytest.raises(UserError, match=r"expected a folder or repository with config\.json"):
        model(base / "model.safetensors").encoder()
    mood = task(sentences(tmp_path / "data"))
    wide = saved(tmp_path / "wide", network("bert", hidden_size=64))
    with pytest.raises(UserError, match=r"checkpoint of mood .*has shape \(25, 64\), this network's is \(25, 32\)"):
        model(base, {"mood": str(wide)}).finetuned([mood])
    save_file({"weight": torch.zeros(2)}, tmp_path / "foreign.safetensors")
    with pytest.raises(
        UserError, match=r"lacks embeddings\.word_embeddings\.weight of this network \(it begins with we"
    ):
        model(base, {"mood": str(tmp_path / "foreign.safetensors")}).finetuned([mood])


def test_tokens_are_padded_to_the_longest_of_a_batch(tmp_path: Path) -> None:
    tokens = model(saved(tmp_path / "base", network("bert")))._tokens(["good", "good film is bad", ""])
    batch = tokens[0:2]
    assert batch["input_ids"].tolist() == [[2, 5, 3, 0, 0, 0], [2, 5, 9, 13, 6, 3]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 0, 0, 0], [1] * 6]
    alone: dict[str, Tensor] = tokens[torch.tensor([2, 0])]
    assert alone["input_ids"].tolist() == [[2, 3, 0], [2, 5, 3]]
