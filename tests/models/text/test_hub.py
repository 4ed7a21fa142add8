"""The text encoder against a hub on loopback: base, classifiers and texts arrive once."""

from pathlib import Path

from encoders import network, saved, sentences
from fresh import downloads, told
from hub import Hub

BODY = """
from tsv_exp import merge
from tsv_exp.evaluation.evaluator import Evaluator
from tsv_exp.models.text.model import TextEncoder
from tsv_exp.tasks.task import Task

places = {"mood": "owner/bert-mood", "topic": "owner/bert-topic@main"}
model = TextEncoder("toy", "owner/bert", places, head="classifier", device="cpu")
columns = {"input": "text", "label": "label"}
tasks = [Task(name, ("good", "bad", "fine"), ("{}",), {"data": {"hub": f"owner/{name}", **columns}}) for name in places]
evaluator = Evaluator(model, tasks, torch.device("cpu"), "float32")
merged = merge(model.base(), model.finetuned(tasks), "tsv_c", rank_fraction=1.0)
told["accuracy"] = evaluator.accuracies(merged, 1.0, "test")
told["validation"] = evaluator.counts("validation")
"""


def test_everything_arrives_once(tmp_path: Path) -> None:
    for number, name in enumerate(("bert", "bert-mood", "bert-topic")):
        saved(tmp_path / "hub/models/owner" / name, network("bert", "SequenceClassification", seed=number))
    for number, name in enumerate(("mood", "topic")):
        sentences(tmp_path / "hub/datasets/owner" / name, 60, seed=number)
    with Hub(tmp_path / "hub").running() as hub:
        found = told(hub, tmp_path, BODY)
        assert len(downloads(hub, "model.safetensors")) == 3
        assert found["validation"] == {"mood": 6, "topic": 6}
        assert all(0 < value < 1 for value in found["accuracy"].values())  # type: ignore[attr-defined]
