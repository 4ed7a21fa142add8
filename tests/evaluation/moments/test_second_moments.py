"""Second moments of layers' inputs: those of explicit forward passes, from the examples that `inputs` names."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from tsv_exp import UserError, merge
from tsv_exp.evaluation.moments import Noise, OtherTasks, Validation, moments_of_merged, second_moments
from tsv_exp.evaluation.moments.second_moments import captured_attention
from tsv_exp.tasks.task import Split

TASKS = ("a", "b", "c")


class Encoder(nn.Module):
    """A linear layer, an attention and a linear layer."""

    def __init__(self):
        super().__init__()
        self.first, self.attn = nn.Linear(5, 8), nn.MultiheadAttention(8, 2, batch_first=True)
        self.last = nn.Linear(8, 4)

    def forward(self, x):
        hidden = self.first(x).tanh()
        return self.last(self.attn(hidden, hidden, hidden, need_weights=False)[0].mean(1))


def weights(seed):
    torch.manual_seed(seed)
    return {name: 0.5 * torch.randn_like(value) for name, value in Encoder().state_dict().items()}


class Model:
    """Three tasks with inputs (N, 3, 5) of different scale; counts what runs."""

    name, runs = "small", 0

    def encoder(self):
        return Encoder()

    def split(self, task, split):
        assert split == "validation"
        g = torch.Generator().manual_seed(TASKS.index(task.name))
        return Split(10.0 ** TASKS.index(task.name) * torch.randn(7, 3, 5, generator=g), torch.zeros(7).long())

    def prepare(self, inputs, device):
        return inputs.to(device)

    def predict(self, encoder, batch, task):
        self.runs += 1
        return encoder(batch).argmax(1)

    def identity(self, task):
        return task.name


@pytest.fixture
def evaluator(tmp_path, monkeypatch):
    monkeypatch.setenv("TSV_EXP_CACHE", str(tmp_path))
    tasks = {name: SimpleNamespace(name=name) for name in TASKS}
    return SimpleNamespace(model=Model(), tasks=tasks, device=torch.device("cpu"), batch_size=3)


MODELS = {name: weights(seed) for seed, name in enumerate(TASKS)}


def expected(model, x):
    """The mean of x xᵀ of every layer, in float64, with the attention written out."""
    w = {name: value.double() for name, value in model.items()}
    hidden = (x.double() @ w["first.weight"].mT + w["first.bias"]).tanh()
    q, k, v = (hidden @ w["attn.in_proj_weight"].mT + w["attn.in_proj_bias"]).chunk(3, -1)
    heads = []
    for part in (slice(0, 4), slice(4, 8)):
        weight = (q[..., part] @ k[..., part].mT / 2).softmax(-1)
        heads.append(weight @ v[..., part])
    inner = torch.cat(heads, -1)
    outer = (inner @ w["attn.out_proj.weight"].mT + w["attn.out_proj.bias"]).mean(1)
    rows = {"first.weight": x.double(), "attn.in_proj_weight": hidden, "attn.out_proj.weight": inner}
    rows["last.weight"] = outer
    flat = {name: value.flatten(0, -2) for name, value in rows.items()}
    return {name: value.mT @ value / len(value) for name, value in flat.items()}


def check(moments, position, model, x):
    for name, wanted in expected(model, x).items():
        found = moments(name)
        assert found.shape == (3, *wanted.shape)
        torch.testing.assert_close(found[position].double(), wanted, rtol=1e-4, atol=1e-5 * float(wanted.norm()))
    assert moments("first.bias") is None


def test_they_are_those_of_the_tasks_own_examples(evaluator):
    moments = second_moments(Validation(), evaluator, MODELS)
    for position, name in enumerate(TASKS):
        check(moments, position, MODELS[name], evaluator.model.split(evaluator.tasks[name], "validation").inputs)
    runs = evaluator.model.runs
    assert torch.equal(second_moments(Validation(), evaluator, MODELS)("last.weight"), moments("last.weight"))
    assert evaluator.model.runs == runs, "they are cached"
    second_moments(Validation(examples=2), evaluator, MODELS)
    assert evaluator.model.runs == runs + 3, "another number of examples is another statistic"


@pytest.mark.gpu
def test_a_gpu_finds_those_of_the_cpu(evaluator):
    evaluator.device = torch.device("cuda")
    moments = second_moments(Validation(), evaluator, MODELS)
    for position, name in enumerate(TASKS):
        inputs = evaluator.model.split(evaluator.tasks[name], "validation").inputs
        check(lambda layer: None if (found := moments(layer)) is None else found.cpu(), position, MODELS[name], inputs)


def test_other_tasks_are_all_but_ones_own(evaluator):
    moments = second_moments(OtherTasks(examples=100), evaluator, MODELS)
    others = [evaluator.model.split(evaluator.tasks[name], "validation").inputs for name in ("a", "c")]
    check(moments, 1, MODELS["b"], torch.cat(others))
    few = list(OtherTasks(examples=3).batches(evaluator, "a"))
    assert sum(len(batch) for batch in few) == 3
    assert sum(float(batch.abs().max()) > 50 for batch in few) == 1, "one of c, two of b"


def test_noise_needs_nothing_of_a_task_but_the_shape(evaluator):
    noise = torch.cat(list(Noise(examples=8).batches(evaluator, "c")))
    assert noise.shape == (8, 3, 5)
    assert float(noise.abs().max()) < 6
    check(second_moments(Noise(examples=8), evaluator, MODELS), 2, MODELS["c"], noise)
    evaluator.model.prepare = lambda inputs, device: {"tokens": torch.zeros(1, 3).long()}
    with pytest.raises(UserError, match="inputs=noise: the inputs of model=small are not images"):
        list(Noise().batches(evaluator, "c"))


def test_padding_does_not_count(evaluator):
    model, mask = evaluator.model, torch.tensor([1, 1, 0])
    prepare = lambda inputs, device: {"x": inputs, "attention_mask": mask.expand(len(inputs), -1)}  # noqa: E731
    model.prepare, model.predict = prepare, lambda encoder, batch, task: encoder(batch["x"])
    rows = model.split(evaluator.tasks["b"], "validation").inputs[:, :2].flatten(0, 1).double()
    found = second_moments(Validation(), evaluator, MODELS)("first.weight")[1]
    torch.testing.assert_close(found.double(), rows.mT @ rows / len(rows), rtol=1e-5, atol=1e-4)


def test_what_cannot_be_is_one_line(evaluator):
    with pytest.raises(UserError, match=r"inputs\.examples=0"):
        Validation(examples=0)
    del evaluator.tasks["b"], evaluator.tasks["c"]
    with pytest.raises(UserError, match="inputs=other_tasks: there is one task only"):
        list(OtherTasks().batches(evaluator, "a"))


@pytest.mark.parametrize("batch_first", [True, False])
def test_attention_is_as_before_while_it_is_captured(batch_first):
    torch.manual_seed(0)
    attention = nn.MultiheadAttention(8, 2, batch_first=batch_first).eval()
    nn.init.normal_(attention.out_proj.bias)
    x, found = torch.randn(2, 3, 8), []
    before = {name: value.clone() for name, value in attention.state_dict().items()}
    with torch.no_grad():
        wanted = attention(x, x, x)[0]
        with captured_attention(attention, before, lambda name, rows: found.append((name, rows))):
            torch.testing.assert_close(attention(x, x, x)[0], wanted)
    ((name, rows),) = found
    assert name == "out_proj.weight"
    outputs = attention.out_proj(rows)
    torch.testing.assert_close(outputs if batch_first else outputs.transpose(0, 1), wanted)
    assert all(torch.equal(value, before[name]) for name, value in attention.state_dict().items())


class Deep(nn.Module):
    """A layer, two blocks of two layers each, and a layer."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Linear(5, 6)
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(6, 7), nn.Tanh(), nn.Linear(7, 6)) for _ in range(2))
        self.last = nn.Linear(6, 4)

    def forward(self, x):
        hidden = self.stem(x)
        for block in self.blocks:
            hidden = hidden + block(hidden)
        return self.last(hidden)


def regressed(deltas, rows):
    """RegMean with off_diagonal = 1, by least squares on the rows themselves."""
    inputs = torch.cat([x / len(x) ** 0.5 for x in rows])
    outputs = torch.cat([x @ delta.mT / len(x) ** 0.5 for delta, x in zip(deltas, rows, strict=True)])
    return torch.linalg.lstsq(inputs, outputs, driver="gelsd").solution.mT


def test_blocks_of_a_task_run_on_the_outputs_of_the_merged_blocks_before_them(evaluator):
    model = evaluator.model
    splits = {name: Split(torch.randn(7, 3, 5), torch.zeros(7).long()) for name in TASKS}
    model.encoder, model.split = Deep, lambda task, _: splits[task.name]
    torch.manual_seed(0)
    base, *others = ({n: 0.4 * torch.randn_like(v) for n, v in Deep().state_dict().items()} for _ in range(4))
    finetuned = dict(zip(TASKS, others, strict=True))

    def by_regmean(base, finetuned, known):
        return merge(base, finetuned, "regmean_pp", off_diagonal=1.0, moments=known).vector()

    moments = moments_of_merged(Validation(), evaluator, base, finetuned, by_regmean)
    found = merge(base, finetuned, "regmean_pp", off_diagonal=1.0, moments=moments).vector()

    delta = lambda name: torch.stack([w[name] - base[name] for w in finetuned.values()]).double()  # noqa: E731
    mean = {name: (base[name] + delta(name).mean(0)).double() for name in base}
    hidden = []
    for task in TASKS:
        x = model.split(evaluator.tasks[task], "validation").inputs.double().flatten(0, 1)
        hidden.append(x @ mean["stem.weight"].mT + mean["stem.bias"])
    for number in range(2):
        first, second = f"blocks.{number}.0", f"blocks.{number}.2"
        inner = []
        for task, x in zip(TASKS, hidden, strict=True):
            own = {name: value.double() for name, value in finetuned[task].items()}
            inner.append((x @ own[f"{first}.weight"].mT + own[f"{first}.bias"]).tanh())
        wanted = {f"{first}.weight": hidden, f"{second}.weight": inner}
        merged = dict(mean)
        for name, rows in wanted.items():
            expected_tau = regressed(delta(name), rows)
            torch.testing.assert_close(found[name].double(), expected_tau, rtol=1e-3, atol=1e-4)
            merged[name] = base[name].double() + expected_tau
        for at, x in enumerate(hidden):
            out = (x @ merged[f"{first}.weight"].mT + merged[f"{first}.bias"]).tanh()
            hidden[at] = x + out @ merged[f"{second}.weight"].mT + merged[f"{second}.bias"]
    last = regressed(delta("last.weight"), hidden)
    torch.testing.assert_close(found["last.weight"].double(), last, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(found["stem.bias"], delta("stem.bias").mean(0).float(), rtol=1e-5, atol=1e-6)
    runs = model.runs
    moments_of_merged(Validation(), evaluator, base, finetuned, by_regmean)
    assert model.runs == runs, "they are cached"
