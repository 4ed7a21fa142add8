"""Adapters of experts (target_parameters) merged into their model: TSV-M of what PEFT makes of each of them."""

import pytest
import textbook
import torch
from experts import KINDS, adapt, mixture

from tsv_exp.checkpoints.readers import read
from tsv_exp.errors import UserError
from tsv_exp.merge_files.merge import run
from tsv_exp.merge_files.options.options import parse

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*_pattern keys did not match:RuntimeWarning"),  # those of parameters do
]


def matrices(weights):
    """The weights with a matrix for each of a stack's, in float64."""
    found = {}
    for name in weights:
        weight = weights[name].double()
        found |= {f"{name}.{i}": part for i, part in enumerate(weight)} if weight.dim() == 3 else {name: weight}
    return found


def expected(base, models, method):
    base = matrices(base)
    merged = method(textbook.task_vectors(base, {name: matrices(model) for name, model in models.items()}))
    return {name: base[name] + delta for name, delta in merged.items()}


@pytest.fixture(params=["Qwen3Moe", "GptOss"])
def adapters(request, tmp_path):
    """A base, two adapters a and b, and PEFT's models with them, a-merged and b-merged; all in float64."""
    mixture(request.param, tmp_path / "base", dtype=torch.float64)
    for seed, name in enumerate("ab"):
        adapt(tmp_path / "base", tmp_path / name, tmp_path / f"{name}-merged", seed, **KINDS[request.param][1])
    return tmp_path


def words(folder, models, *more):
    paths = ",".join(str(folder / name) for name in models)
    return [f"base={folder / 'base'}", f"models=[{paths}]", f"out={folder / 'out'}", *more]


@pytest.mark.parametrize("models", [("a", "b"), ("a", "b-merged")])
@pytest.mark.parametrize("method", ["tsv_m", "task_arithmetic", "ties"])
def test_as_the_models_with_them(adapters, models, method):
    run(parse(words(adapters, models, f"method={method}", "alpha=1", "svd=exact")))
    base, found = read(adapters / "base"), matrices(read(adapters / "out"))
    wanted = expected(base, {name: read(adapters / f"{name}-merged") for name in "ab"}, getattr(textbook, method))
    assert found.keys() == wanted.keys()
    for name, weight in wanted.items():
        assert (found[name] - weight).norm() <= 1e-9 * weight.norm(), name


def test_transformers_loads_the_result(adapters):
    import transformers

    run(parse(words(adapters, ["a"], "method=weight_average", "alpha=1")))
    found, wanted = (
        transformers.AutoModelForCausalLM.from_pretrained(adapters / name).state_dict() for name in ("out", "a-merged")
    )
    for name, weight in wanted.items():
        torch.testing.assert_close(found[name], weight)


def test_an_adapter_as_output_is_told_the_remedy(adapters):
    with pytest.raises(UserError, match="leave form=lora out"):
        run(parse(words(adapters, "ab", "method=tsv_m", "form=lora")))
