"""tsv_exp.load: what tsv-merge wrote, behind a router."""

import copy
import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from blocks import WIDTH, Block
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import tsv_exp
from tsv_exp.errors import UserError
from tsv_exp.merge_files.merge import run
from tsv_exp.merge_files.options.options import parse
from tsv_exp.routing.router import FittedRouter
from tsv_exp.routing.serving.files import read_router

TASKS = ("a", "b", "c")


def spans() -> Tensor:
    return torch.randn(3, 3, WIDTH, generator=torch.Generator().manual_seed(5))


def inputs(count: int, length: int = 6, seed: int = 0) -> tuple[Tensor, list[str]]:
    """Examples (3 · count, length, WIDTH), each task's in a span of its own, and their tasks."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.cat([torch.randn(count, length, 3, generator=generator) @ span for span in spans()])
    order = torch.randperm(3 * count, generator=generator)
    return x[order], [TASKS[int(i) // count] for i in order]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fine-tuned models whose first layer learned from inputs in the task's span."""
    root, base = tmp_path_factory.mktemp("served"), Block(True).state_dict()
    save_file(base, root / "base.safetensors")
    generator = torch.Generator().manual_seed(6)
    for task, span in zip(TASKS, spans(), strict=True):
        model = {name: w.clone() for name, w in base.items()}
        model["blocks.0.attn.in_proj_weight"] += 0.1 * torch.randn(3 * WIDTH, 3, generator=generator) @ span
        model["head.weight"] += 0.1 * torch.randn(model["head.weight"].shape, generator=generator)
        save_file(model, root / f"{task}.safetensors")
    run(
        parse(
            [
                f"base={root}/base.safetensors",
                f"models=[{','.join(f'{root}/{task}.safetensors' for task in TASKS)}]",
                f"out={root}/out",
                "method=individual",
                "router=likelihood",
                "router.narrowing=true",
                "router.rank_fraction=1",
                "router.epsilon=0.1",
            ]
        )
    )
    return root / "out"


def test_every_input_is_answered_by_its_tasks_model(folder: Path) -> None:
    module = Block(True)
    served = tsv_exp.load(folder, module)
    assert served.tasks == TASKS
    x, tasks = inputs(20)
    routes = served.route(x)
    assert sum(a == b for a, b in zip(routes.tasks, tasks, strict=True)) >= 50
    assert routes.scores.shape == (60, 3)
    found = served.predict(x)
    assert found.tasks == routes.tasks
    for task in TASKS:
        rows = [row for row, own in enumerate(routes.tasks) if own == task]
        network = served.model(task)
        torch.testing.assert_close(torch.stack([found.outputs[row] for row in rows]), network(x[rows]))
    for name, weight in Block(True).state_dict().items():
        assert torch.equal(module.state_dict()[name], weight), "the base is not changed"


@pytest.mark.gpu
def test_a_module_on_a_gpu_answers_as_on_the_cpu(folder: Path) -> None:
    x, _ = inputs(20)
    expected = tsv_exp.load(folder, Block(True)).predict(x)
    found = tsv_exp.load(folder, Block(True).cuda()).predict(x.cuda())
    assert found.tasks == expected.tasks
    assert all(output.is_cuda for output in found.outputs)
    torch.testing.assert_close(torch.stack(found.outputs).cpu(), torch.stack(expected.outputs), atol=1e-4, rtol=1e-4)


def test_models_are_those_of_apply(folder: Path) -> None:
    from tsv_exp.checkpoints.store import load_merged

    served = tsv_exp.load(folder, Block(True))
    served.predict(inputs(2)[0])
    for task in TASKS:
        wanted = tsv_exp.apply(Block(True).state_dict(), load_merged(folder), task=task)
        for name, weight in served.model(task).state_dict().items():
            torch.testing.assert_close(weight, wanted[name], rtol=0, atol=0)
    with pytest.raises(UserError, match="has no task 'd'; choose from: a, b, c"):
        served.model("d")


def test_the_base_is_known_by_its_values(folder: Path, tmp_path: Path) -> None:
    from tsv_exp.checkpoints.store import load_merged

    tuned = Block(True)
    tuned.load_state_dict(load_file(folder.parent / "a.safetensors"))
    words = "of the module has other values than in the base of this merge; give that base, not a fine-tuned model"
    tsv_exp.load(folder, Block(True).double())
    for module in (tuned, copy.deepcopy(tuned).bfloat16()):
        with pytest.raises(UserError, match=f"^tensor 'blocks.0.attn.in_proj_weight' {words}$"):
            tsv_exp.load(folder, module)
    with pytest.raises(UserError, match="of the base has other values than in the base of this merge"):
        tsv_exp.apply(tuned, load_merged(folder), task="a")
    with pytest.raises(UserError, match="of the module is without data"):
        tsv_exp.load(folder, Block(True).to("meta"))
    other = Block(True)  # no task changes this layer, so that another head may be there
    with torch.no_grad():
        other.blocks[0].mlp[0].weight += 1
    tsv_exp.load(folder, other)
    shutil.copytree(folder, tmp_path / "old")  # written before values of the base were
    description = json.loads((folder / "merged.json").read_text())
    for layer in description["layers"].values():
        del layer["sample"]
    (tmp_path / "old" / "merged.json").write_text(json.dumps(description))
    tsv_exp.load(tmp_path / "old", tuned)


def test_values_of_the_base_are_compared_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    served = tsv_exp.load(folder, Block(True))
    monkeypatch.setattr("tsv_exp.merging.engine.sampled_from", lambda *_: pytest.fail("compared again"))
    for task in TASKS:
        served.model(task)


def test_names_that_differ_by_a_prefix(folder: Path) -> None:
    served = tsv_exp.load(folder, nn.Sequential(Block(True)))
    x, _ = inputs(3)
    wanted = tsv_exp.load(folder, Block(True)).predict(x)
    torch.testing.assert_close(torch.stack(served.predict(x).outputs), torch.stack(wanted.outputs))


def test_threads_share_a_model(folder: Path) -> None:
    served, (x, _) = tsv_exp.load(folder, Block(True)), inputs(4)
    served = copy.deepcopy(served)
    wanted = torch.stack(served.predict(x).outputs)
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(lambda _: served.predict(x), range(12)):
            torch.testing.assert_close(torch.stack(found.outputs), wanted)


def test_inputs_that_are_none_or_no_tensor(folder: Path) -> None:
    served, (x, _) = tsv_exp.load(folder, Block(True)), inputs(1)
    assert served.predict(x[:0]).tasks == []
    assert served.route(x[:0]).scores.shape == (0, 3)
    with pytest.raises(UserError, match="inputs are a ndarray; give a tensor, or a mapping"):
        served.route(x.numpy())
    with pytest.raises(UserError, match=r"module is a OrderedDict; give the base model as a torch"):
        tsv_exp.load(folder, Block(True).state_dict())  # type: ignore[arg-type]


def test_heads_and_features(folder: Path) -> None:
    heads = {task: nn.Linear(5, 2 + number) for number, task in enumerate(TASKS[:2])}
    served = tsv_exp.load(folder, Block(True), heads=heads, features=lambda output: 2 * output)
    x, _ = inputs(10)
    found = served.predict(x)
    sizes = {"a": 2, "b": 3, "c": 5}
    for row, task in enumerate(found.tasks):
        assert found.outputs[row].shape == (sizes[task],)
        features = 2 * served.model(task)(x[row : row + 1])
        wanted = heads[task](features) if task in heads else features
        torch.testing.assert_close(found.outputs[row], wanted[0], rtol=1e-4, atol=1e-5)


def test_a_batch_of_one_task(folder: Path) -> None:
    served = tsv_exp.load(folder, Block(True))
    x, tasks = inputs(30)
    mine = x[[row for row, task in enumerate(tasks) if task == "b"]]
    assert served.route(mine, together=True).tasks == ["b"] * 30
    assert set(served.predict(mine, together=True).tasks) == {"b"}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(folder: Path, dtype: torch.dtype) -> None:
    x, _ = inputs(20)
    wanted = tsv_exp.load(folder, Block(True)).route(x)
    served = tsv_exp.load(folder, Block(True).to(dtype))
    found = served.predict(x.to(dtype))
    assert sum(a == b for a, b in zip(found.tasks, wanted.tasks, strict=True)) >= 57
    assert found.outputs[0].dtype == dtype


class Padded(Block):
    """Takes keyword arguments, as transformers' networks do, and returns a mapping."""

    def forward(self, x: Tensor, attention_mask: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        return {"features": super().forward(x)}


def test_keyword_arguments_and_padding(folder: Path) -> None:
    served = tsv_exp.load(folder, Padded(True, cls=False))
    x, tasks = inputs(20)
    mask = torch.ones(x.shape[:2])
    mask[:, 4:] = 0
    x[:, 4:] = 100 * torch.randn(x[:, 4:].shape, generator=torch.Generator().manual_seed(3))
    found = served.route({"x": x, "attention_mask": mask})
    assert sum(a == b for a, b in zip(found.tasks, tasks, strict=True)) >= 40
    assert len(served.predict({"x": x, "attention_mask": mask}).outputs) == 60


def test_it_works_within_inference_mode(folder: Path) -> None:
    x, _ = inputs(5)
    module = Block(True)
    with torch.inference_mode():
        served = tsv_exp.load(folder, module)
        assert len(served.predict(x.clone()).tasks) == 15
    served.model("a")
    assert len(served.predict(x).tasks) == 15


def test_the_router_reads_only_what_counts(folder: Path) -> None:
    served = tsv_exp.load(folder, Block(True))
    served.route(inputs(2)[0])
    fitted: FittedRouter = served._fitted
    assert fitted.supports["blocks.0.attn.in_proj_weight"] == "all"
    assert set(read_router(folder).layers) == {"blocks.0.attn.in_proj_weight", "head.weight"}


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda folder: tsv_exp.load(folder, nn.Linear(3, 3)), "the module has no tensor 'blocks.0"),
        (lambda folder: tsv_exp.load(folder.parent, Block(True)), "holds no router"),
        (lambda folder: tsv_exp.load(folder, Block(True), heads={"d": nn.Linear(5, 2)}), "there is no task 'd'"),
    ],
)
def test_errors(folder: Path, make: Any, words: str) -> None:
    with pytest.raises(UserError, match=words):
        make(folder)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["method=tsv_m", "router=likelihood"], "router=likelihood: the result is one model for all tasks"),
        (["method=tsv_c", "router=likelihood", "task=a"], "router=likelihood: the result is one model for all tasks"),
        (["method=tsv_c", "router=nope"], "router=nope: choose from: none, likelihood, mass"),
        (["method=tsv_c", "router=mass"], "without data no layer can be chosen; give router.layer=NAME"),
        (["method=tsv_c", "router.epsilon=1"], "router.epsilon: give router=likelihood too"),
        (["method=tsv_c", "router=likelihood", "router.epsilon=0"], "router.epsilon=0: give a positive number"),
        (["method=tsv_c", "router=likelihood", "router.nope=0"], "nope"),
    ],
)
def test_options(folder: Path, tmp_path: Path, words: list[str], message: str) -> None:
    root = folder.parent
    given = [
        f"base={root}/base.safetensors",
        f"models=[{root}/a.safetensors,{root}/b.safetensors]",
        f"out={tmp_path}/o",
    ]
    with pytest.raises(UserError, match=message):
        run(parse([*given, *words]))
    assert not (tmp_path / "o" / "router.json").exists()
