"""Fitted routers: sums over layers, products of thin factors, choice of layers, errors."""

from collections.abc import Mapping

import pytest
import torch
from blocks import WIDTH, Block
from torch import Tensor

from tsv_exp.config import Engine
from tsv_exp.decompositions.build import build_algebra
from tsv_exp.decompositions.exact import ExactAlgebra
from tsv_exp.errors import UserError
from tsv_exp.layers import LowRank
from tsv_exp.merging.task_vectors import TaskVectors
from tsv_exp.routing.capture import captured
from tsv_exp.routing.gaussian import fit_gaussians, log_likelihoods
from tsv_exp.routing.likelihood import Likelihood
from tsv_exp.routing.mass import Mass
from tsv_exp.routing.router import FittedRouter, Router, fit
from tsv_exp.routing.subspace import residuals, standardized
from tsv_exp.routing.tokens import token_weights

FIRST = "blocks.0.mlp.0.weight"


def stream(network: torch.nn.Module, tasks: int = 3) -> TaskVectors:
    return TaskVectors(dict(network.state_dict()), finetuned(network, tasks))


def finetuned(network: torch.nn.Module, tasks: int = 3) -> dict[str, dict[str, Tensor]]:
    base = dict(network.state_dict())
    generator = torch.Generator().manual_seed(0)
    return {
        f"t{i}": {
            name: w + 0.1 * torch.randn(w.shape, generator=generator) if w.dim() == 2 else w for name, w in base.items()
        }
        for i in range(tasks)
    }


def scores(fitted: FittedRouter, network: torch.nn.Module, x: Tensor) -> Tensor:
    with torch.inference_mode():
        fitted.prepare(network, lambda: network(x[:2]), None)
        return fitted.scores(network, lambda: network(x), None)


@pytest.mark.gpu
@pytest.mark.parametrize("router", [Likelihood(narrowing=True), Mass(FIRST)])
def test_scores_on_a_gpu_are_those_of_the_cpu(router: Router) -> None:
    network, x = Block(True), torch.randn(5, 4, WIDTH, generator=torch.Generator().manual_seed(1))
    base, gpu = dict(network.state_dict()), torch.device("cuda")
    expected = scores(fit(router, stream(network), ExactAlgebra(), network), network, x)
    vectors = TaskVectors(base, finetuned(network), device=gpu)
    fitted = fit(router, vectors, build_algebra(Engine(svd="exact"), gpu), network).to(gpu)
    found = scores(fitted, network.to(gpu), x.to(gpu))
    torch.testing.assert_close(found.cpu(), expected, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("standardize", [True, False])
def test_likelihoods_are_summed_over_the_layers_and_over_the_tokens_that_count(standardize: bool) -> None:
    network, x = Block(True), torch.randn(5, 4, WIDTH, generator=torch.Generator().manual_seed(1))
    vectors = stream(network)
    fitted = fit(
        Likelihood(epsilon=0.2, rank_fraction=1.0, standardize=standardize, narrowing=True),
        vectors,
        ExactAlgebra(),
        network,
    )
    wanted = torch.zeros(5, 3)
    seen = {}
    with captured(network, vectors.names, lambda name, inputs: seen.__setitem__(name, inputs)):
        network(x)
    assert set(seen) == set(fitted.layers)
    for name, inputs in seen.items():
        deltas = vectors.layer(name).deltas
        _, s, vh = torch.linalg.svd(deltas, full_matrices=False)
        gaussians = fit_gaussians(s, vh, deltas.square().sum((1, 2)), 0.2)
        kind = "first" if name.startswith("blocks.1.mlp") else "all"
        weights = token_weights((5, inputs.shape[1]), None, kind, x.device)  # type: ignore[arg-type]
        own = log_likelihoods(inputs, weights, gaussians)
        wanted += standardized(own) if standardize else own
    torch.testing.assert_close(scores(fitted, network, x), wanted, rtol=1e-4, atol=1e-4)


def test_layers_with_fewer_outputs_than_inputs_are_left_out() -> None:
    network = Block(True)
    fitted = fit(Likelihood(), stream(network), ExactAlgebra(), network)
    kept = {f"blocks.{i}.{name}" for i in (0, 1) for name in ("attn.in_proj_weight", "mlp.0.weight")}
    assert set(fitted.layers) == kept


def test_products_of_thin_factors_are_not_formed() -> None:
    network, x = Block(True), torch.randn(5, 4, WIDTH, generator=torch.Generator().manual_seed(1))
    base = dict(network.state_dict())
    generator = torch.Generator().manual_seed(2)
    factors = {
        i: LowRank(
            torch.randn(12, 2, generator=generator), torch.full((2,), 0.5), torch.randn(2, WIDTH, generator=generator)
        )
        for i in range(3)
    }

    class Adapter(dict[str, Tensor]):
        def __init__(self, index: int):
            super().__init__(base | {FIRST: base[FIRST] + factors[index].dense()})
            self.index = index

        def delta(self, name: str, dtype: torch.dtype) -> Tensor | None:
            raise AssertionError("a task matrix was formed")

        def factors(self, name: str, dtype: torch.dtype) -> LowRank:
            if name == FIRST:
                return factors[self.index]
            m, n = base[name].shape
            return LowRank(torch.zeros(m, 0), torch.zeros(0), torch.zeros(0, n))

        def inputs_first(self, name: str) -> bool | None:
            raise NotImplementedError

        def sliced(self, name: str, index: int) -> "Adapter":
            raise NotImplementedError

    thin = TaskVectors(base, {f"t{i}": Adapter(i) for i in range(3)})
    dense = TaskVectors(base, {f"t{i}": {**Adapter(i)} for i in range(3)})
    for router in (Likelihood(rank_fraction=1.0), Mass(layer=FIRST, rank_fraction=0.2)):
        found, wanted = (fit(router, vectors, ExactAlgebra(), network) for vectors in (thin, dense))
        assert list(found.layers) == list(wanted.layers) == [FIRST]
        torch.testing.assert_close(scores(found, network, x), scores(wanted, network, x), rtol=1e-3, atol=1e-3)
    assert fit(Likelihood(rank_fraction=1.0), thin, ExactAlgebra(), network).layers[FIRST]["factors"].shape == (
        3,
        2,
        WIDTH,
    )


def test_mass_is_the_residual_of_the_class_token_at_one_layer() -> None:
    network, x = Block(False), torch.randn(5, 4, WIDTH, generator=torch.Generator().manual_seed(1))
    vectors = stream(network)
    fitted = fit(Mass(), vectors, ExactAlgebra(), network)
    assert fitted.router.undecided
    assert len(fitted.layers) == 7
    seen = {}
    with captured(network, [FIRST], lambda name, inputs: seen.__setitem__(name, inputs)):
        network(x)
    _, _, vh = torch.linalg.svd(vectors.layer(FIRST).deltas)
    for token, z in (("first", seen[FIRST][:, 0]), ("mean", seen[FIRST].mean(1))):
        mass = fit(Mass(layer=FIRST, token=token), vectors, ExactAlgebra(), network)  # type: ignore[arg-type]
        assert not mass.router.undecided
        wanted = -residuals(z, vh[:, : WIDTH // 3])
        torch.testing.assert_close(scores(mass, network, x), wanted, rtol=1e-4, atol=1e-4)
    chosen = fitted.decided(FIRST)
    assert list(chosen.layers) == [FIRST]
    torch.testing.assert_close(
        scores(chosen, network, x),
        scores(fit(Mass(layer=FIRST), vectors, ExactAlgebra(), network), network, x),
    )


def test_without_a_network_every_matrix_has_statistics_and_those_that_run_are_read() -> None:
    network, x = Block(True), torch.randn(5, 4, WIDTH, generator=torch.Generator().manual_seed(1))
    vectors = stream(network)
    blind = fit(Likelihood(), vectors, ExactAlgebra())
    assert "blocks.0.attn.out_proj.weight" in blind.layers
    seeing = fit(Likelihood(), vectors, ExactAlgebra(), network)
    torch.testing.assert_close(scores(blind, network, x), scores(seeing, network, x))
    assert blind.stored_bytes > seeing.stored_bytes > 0


def test_half_precision_and_autocast_change_little() -> None:
    network, x = Block(True), torch.randn(5, 4, WIDTH, generator=torch.Generator().manual_seed(1))
    fitted = fit(Likelihood(rank_fraction=0.5), stream(network), ExactAlgebra(), network)
    wanted = scores(fitted, network, x)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = scores(fitted, network, x)
    assert mixed.dtype == torch.float32
    torch.testing.assert_close(mixed, wanted, rtol=0.1, atol=0.2)
    half = scores(fitted, network.bfloat16(), x.bfloat16())
    torch.testing.assert_close(half, wanted, rtol=0.1, atol=0.3)


def test_layers_that_no_task_changes_are_left_out() -> None:
    network = Block(True)
    vectors = stream(network)
    frozen = {task: {**model, FIRST: vectors.base[FIRST]} for task, model in vectors.finetuned.items()}
    assert FIRST not in fit(Likelihood(), TaskVectors(vectors.base, frozen), ExactAlgebra(), network).layers


def whole() -> FittedRouter:
    return fit(Likelihood(), stream(Block(True)), ExactAlgebra())


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Likelihood(epsilon=0), "router.epsilon=0: give a positive number"),
        (lambda: Likelihood(rank_fraction=2), "rank_fraction=2"),
        (lambda: Mass(token="last"), "router.token=last: choose first or mean"),  # type: ignore[arg-type]
        (
            lambda: fit(Likelihood(layers=["none*"]), stream(Block(True)), ExactAlgebra()),
            r"none\*\) match no matrix that a task changes.*router.narrowing=true",
        ),
        (lambda: scores(whole(), torch.nn.Linear(8, 8), torch.ones(2, 8)), "base model of the merge"),
    ],
)
def test_errors(make: "object", words: str) -> None:
    with pytest.raises(UserError, match=words):
        make()  # type: ignore[operator]


def turned(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: weight.mT if weight.dim() == 2 else weight for name, weight in weights.items()}


@pytest.mark.parametrize("router", [Likelihood(rank_fraction=1.0, narrowing=True), Mass(layer="0.weight")])
def test_transposed_layers_are_read_as_linear_ones(router: Router) -> None:
    conv1d = pytest.importorskip("transformers.pytorch_utils").Conv1D
    torch.manual_seed(0)
    transposed = torch.nn.Sequential(conv1d(12, WIDTH), torch.nn.GELU(), conv1d(WIDTH, 12)).requires_grad_(False)
    linear = torch.nn.Sequential(torch.nn.Linear(WIDTH, 12), torch.nn.GELU(), torch.nn.Linear(12, WIDTH))
    linear.load_state_dict(turned(transposed.state_dict()))
    vectors = stream(transposed)
    models = {task: turned(model) for task, model in finetuned(transposed).items()}
    straight = TaskVectors(dict(linear.state_dict()), models)
    x = torch.randn(5, 4, WIDTH)
    wanted = scores(fit(router, straight, ExactAlgebra(), linear), linear.requires_grad_(False), x)
    torch.testing.assert_close(scores(fit(router, vectors, ExactAlgebra(), transposed), transposed, x), wanted)
    by_files = fit(router, vectors, ExactAlgebra(), transposed={"0.weight", "2.weight"})
    torch.testing.assert_close(scores(by_files, transposed, x), wanted)
