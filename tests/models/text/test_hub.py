"""The text encoder against a hub on loopback: base, classifiers and texts arrive once, and then suffice offline."""

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
columns = {"input": "text", "label": "label"}
tasks = [Task(name, ("good", "bad", "fine"), ("{}",), {"data": {"hub": f"owner/{name}", **columns}}) for name in places]


def accuracies():
    model = TextEncoder("toy", "owner/bert", places, head="classifier", device="cpu")
    evaluator = Evaluator(model, tasks, torch.device("cpu"), "float32")
    merged = merge(model.base(), model.finetuned(tasks), "tsv_c", rank_fraction=1.0)
    told["validation"] = evaluator.counts("validation")
    return evaluator.accuracies(merged, 1.0, "test")


told["accuracy"] = accuracies()
import datasets
import huggingface_hub

huggingface_hub.constants.HF_HUB_OFFLINE = datasets.config.HF_HUB_OFFLINE = True
told["offline"] = accuracies()
"""


def test_everything_arrives_once(tmp_path: Path) -> None:
    for number, name in enumerate(("bert", "bert-mood", "bert-topic")):
        saved(tmp_path / "hub/models/owner" / name, network("bert", "SequenceClassification", seed=number))
    for number, name in enumerate(("mood", "topic")):
        sentences(tmp_path / "hub/datasets/owner" / name, 60, seed=number)
    with Hub(tmp_path / "hub").running() as hub:
        found = told(hub, tmp_path, BODY)
        assert len(downloads(hub, "model.safetensors")) == 3
        assert found["offline"] == found["accuracy"]
        assert found["validation"] == {"mood": 6, "topic": 6}
        assert all(0 < value < 1 for value in found["accuracy"].values())  # type: ignore[attr-defined]


GLUE = """
words = ["model=text2text", "model.pretrained=google/tiny", "model.checkpoints=zoo/t5_glue-*", "device=cpu"]
words += ["tasks=[glue_cola,glue_stsb]", "evaluate.precision=float32", "method=task_arithmetic", "alpha=0.3"]
code = run(*words, f"paths.outputs={home}")
(place,) = Path(home).glob("**/results.json")
told["results"] = json.loads(place.read_text())
told["code"] = code
"""


def test_glue_as_text_to_text(tmp_path: Path) -> None:
    from datasets import ClassLabel, Dataset, Features, Value

    root = tmp_path / "hub"
    for number, name in enumerate(("google/tiny", "zoo/t5_glue-cola", "zoo/t5_glue-stsb")):
        saved(root / "models" / name, network("t5", "Seq2SeqLM", seed=number))
    glue, texts = (
        root / "datasets/nyu-mll/glue",
        [f"the plot is {word}" for word in ("good", "bad", "fine", "poor")] * 5,
    )
    label = ClassLabel(names=["unacceptable", "acceptable"])
    cola = Dataset.from_dict(
        {"sentence": texts, "label": [0, 1] * 10}, Features({"sentence": Value("string"), "label": label})
    )
    values = [float(i % 6) for i in range(20)]
    stsb = Dataset.from_dict({"sentence1": texts, "sentence2": texts[::-1], "label": values})
    configs = ""
    for name, table in (("cola", cola), ("stsb", stsb)):
        configs += f"- config_name: {name}\n  data_files:\n"
        for split in ("train", "validation"):
            (glue / name).mkdir(parents=True, exist_ok=True)
            table.to_parquet(glue / name / f"{split}-00000-of-00001.parquet")
            configs += f"  - split: {split}\n    path: {name}/{split}-*\n"
    (glue / "README.md").write_text(f"---\nconfigs:\n{configs}---\n", encoding="utf-8")
    with Hub(root).running() as hub:
        found = told(hub, tmp_path, f"home = {str(tmp_path / 'runs')!r}\n{GLUE}")
    assert found["code"] == 0
    results = found["results"]
    assert results["status"] == "ok"  # type: ignore[index]
    assert results["metrics"] == {"glue_cola": "exact_match", "glue_stsb": "spearman"}  # type: ignore[index]
