import pytest
import textbook
import torch
from models import matrix

from tsv_exp.decompositions import exact as linalg
from tsv_exp.decompositions import fast, fast_polar, krylov, numerics
from tsv_exp.methods.singular_vectors import tsv_m

TASKS, SHAPE = 4, (200, 128)


def deltas(make, seed=0, shape=SHAPE, tasks=TASKS):
    g = torch.Generator().manual_seed(seed)
    return torch.stack([make(*shape, g) for _ in range(tasks)]).float()


def shared_part(m, n, g):
    """Tasks that are nearly dependent: one matrix and a hundredth of another."""
    return matrix(m, n, torch.Generator().manual_seed(7)) + 0.01 * matrix(m, n, g)


def cluster_at_the_cut(m, n, g):
    r = min(m, n)
    u, v = (torch.linalg.qr(torch.randn(size, r, generator=g, dtype=torch.float64)).Q for size in (m, n))
    s = torch.arange(1, r + 1, dtype=torch.float64) ** -0.5
    s[20:32] = s[26] * torch.linspace(1.0001, 1, 12)  # kept whole by k = 32: clustered, yet unique
    return u * s @ v.T


SPECTRA = {
    "slow": lambda m, n, g: matrix(m, n, g, power=0.5),
    "real": lambda m, n, g: matrix(m, n, g, power=0.8),
    "steep": lambda m, n, g: matrix(m, n, g, power=1.5),
    "very steep": lambda m, n, g: matrix(m, n, g, power=2),
    "noise": lambda m, n, g: torch.randn(m, n, generator=g, dtype=torch.float64),
    "rank 5": lambda m, n, g: matrix(m, n, g, rank=5),
    "tiny norm": lambda m, n, g: 1e-30 * matrix(m, n, g),
    "cluster": cluster_at_the_cut,
    "dependent": shared_part,
}


def errors(x, algebra, rank_fraction=None):
    """Relative errors: of the algebra, of ExactAlgebra, and of the textbook procedure in float32."""
    expected = textbook.tsv_m([{"w": d.double()} for d in x], rank_fraction, eps=2**-23)["w"]
    merged = [tsv_m(x, rank_fraction, algebra=a) for a in (algebra, linalg.ExactAlgebra())]
    merged.append(textbook.tsv_m([{"w": d} for d in x], rank_fraction, eps=2**-23)["w"])
    return [float((found.double() - expected).norm() / expected.norm()) for found in merged]


@pytest.mark.parametrize("shape", [SHAPE, (128, 200), (128, 128)])
@pytest.mark.parametrize("spectrum", SPECTRA)
def test_as_accurate_as_float32_allows(spectrum, shape):
    certified, exact, single = errors(deltas(SPECTRA[spectrum], shape=shape), fast.FastAlgebra())
    assert certified <= max(1e-4, single)
    assert exact <= 1e-4


@pytest.mark.parametrize("exponent", [-40, -30, -28, -20, 20, 27, 29, 40])
def test_decompositions_of_any_scale(exponent):
    x = deltas(SPECTRA["noise"])
    expected, algebra = linalg.truncated_svd(x.double(), 20), fast.FastAlgebra()
    found = algebra.truncated_svd(2.0**exponent * x, 20)
    torch.testing.assert_close(found.s.double() / 2.0**exponent, expected.s, rtol=1e-5, atol=0)
    assert (found.dense().double() / 2.0**exponent - expected.dense()).norm() < 1e-5 * expected.dense().norm()
    assert algebra.fallbacks == 0


@pytest.mark.gpu
@pytest.mark.parametrize("shape", [SHAPE, (128, 200), (128, 128)])
@pytest.mark.parametrize("spectrum", SPECTRA)
def test_as_accurate_on_a_gpu(spectrum, shape):
    certified, exact, single = errors(deltas(SPECTRA[spectrum], shape=shape).cuda(), fast.FastAlgebra())
    assert certified <= max(1e-4, single)
    assert exact <= 1e-4


@pytest.mark.gpu
def test_a_gpu_decomposes_matrices_of_all_spectra_in_one_batch():
    x = torch.cat([deltas(make) for make in SPECTRA.values()])
    expected = linalg.truncated_svd(x.double(), 32).dense()
    found = fast.FastAlgebra().truncated_svd(x.cuda(), 32)
    assert found.u.is_cuda
    norms = torch.linalg.matrix_norm(expected)
    assert (torch.linalg.matrix_norm(found.dense().cpu() - expected) <= 1e-5 * norms).all()


@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("algebra", [fast.FastAlgebra, linalg.ExactAlgebra])
@pytest.mark.parametrize("spectrum", [*SPECTRA, "outlier", "zero"])
def test_matrices_that_are_computed_by_rows_are_as_accurate_and_never_whole(spectrum, algebra, wide, monkeypatch):
    monkeypatch.setattr(numerics, "ROWS", 64)
    monkeypatch.setattr(fast, "ROWS", 64)
    x = deltas(SPECTRA.get(spectrum, SPECTRA["real"]), shape=(500, 128), tasks=1)
    if spectrum == "outlier":
        x[0, 3, 4] = 1e5
    if spectrum == "zero":
        x.zero_()
    if wide:
        x = x.mT.contiguous()
    sides = (lambda rows: iter(x.split(rows, -2))), (lambda rows: iter(x.mT.split(rows, -2)))
    by_rows = numerics.Rows(x.shape, x.dtype, x.device, *sides)
    expected = algebra().truncated_svd(x, 32)
    if spectrum != "outlier" and (algebra, spectrum) != (linalg.ExactAlgebra, "rank 5"):  # a full decomposition
        monkeypatch.setattr(linalg, "whole", None)
    found = algebra().truncated_svd(by_rows, 32)
    assert (found.s > 0).sum() == (expected.s > 0).sum()
    close = 1e-4 if spectrum == "outlier" else 1e-5  # relative to the largest entry
    assert (found.dense() - expected.dense()).norm() <= close * max(expected.dense().norm(), 1e-38)


@pytest.mark.parametrize("power", [0.75, 1, 1.2, 1.4, 1.6, 1.8])
def test_as_accurate_where_the_polar_factors_magnify_errors(power):
    x = deltas(lambda m, n, g: matrix(m, n, g, power=power), shape=(384, 256))  # T · k = n
    algebra = fast.FastAlgebra()
    assert errors(x, algebra)[0] < 1e-4
    assert algebra.fallbacks <= 1  # of the polar factors at most: a falling spectrum has well-determined vectors


@pytest.mark.parametrize("spectrum", ["slow", "real", "steep", "cluster", "dependent"])
def test_as_accurate_with_more_components_than_rows(spectrum):
    certified, exact, single = errors(deltas(SPECTRA[spectrum], tasks=5), fast.FastAlgebra(), rank_fraction=0.3)
    assert certified <= max(1e-4, single)
    assert exact <= 1e-4


def test_the_usual_spectra_need_no_fallback():
    algebra = fast.FastAlgebra()
    tsv_m(deltas(SPECTRA["real"]), algebra=algebra)
    assert (algebra.total, algebra.fallbacks) == (TASKS + 2, 0)


@pytest.mark.parametrize("powers", [[0.5], [0.75], [0.5, 0.75]])
def test_the_usual_spectra_need_one_ritz_step_also_side_by_side(powers, monkeypatch):
    steps, ritz = [], fast._ritz
    monkeypatch.setattr(fast, "_ritz", lambda *args: steps.append(args) or ritz(*args))
    g = torch.Generator().manual_seed(0)
    x = torch.stack([matrix(768, 512, g, power=power).float() for power in powers])
    _, good, _ = fast.leading(x, 64)
    assert good.all()
    assert len(steps) == 1


def test_krylov_spaces_of_a_layer_start_where_the_others_converged(monkeypatch):
    starts, top_vectors = [], krylov.top_vectors
    monkeypatch.setattr(krylov, "top_vectors", lambda *args: starts.append(args[-1]) or top_vectors(*args))
    g = torch.Generator().manual_seed(0)
    easy, slow = {"power": 0.5, "gap": 64}, {"power": 0.4}
    x = torch.stack([matrix(768, 512, g, **kind).float() for kind in (easy, easy, slow, easy)])
    algebra = fast.FastAlgebra()
    found, exact = algebra.truncated_svd(x, 64), linalg.truncated_svd(x.double(), 64)
    torch.testing.assert_close(found.s.double(), exact.s, rtol=1e-5, atol=0)
    assert (found.dense().double() - exact.dense()).norm() < 1e-5 * exact.dense().norm()
    assert algebra.fallbacks == 0
    # less after an easy one; more, but not much more than usual, after one that had to grow
    assert starts[1] < starts[0] < starts[3] <= starts[0] + 32


def test_a_repeated_value_wider_than_a_block_is_noticed():
    g = torch.Generator().manual_seed(0)
    u, v = (torch.linalg.qr(torch.randn(size, 128, generator=g)).Q for size in SHAPE)
    s = torch.cat([torch.ones(30), torch.full((98,), 0.5)])
    x = (u * s @ v.mT).unsqueeze(0)
    found = fast.FastAlgebra().truncated_svd(x, 32)
    torch.testing.assert_close(found.s[0, :30], s[:30], atol=1e-5, rtol=0)


def test_a_wrong_result_is_not_certified(monkeypatch):
    x = deltas(SPECTRA["real"], shape=(256, 192))
    # The space of the smallest components: good residuals, orthonormal, and not what was asked for.
    monkeypatch.setattr(
        krylov, "top_vectors", lambda g, k, used, width, size: (torch.linalg.eigh(g).eigenvectors[..., :width], size)
    )
    monkeypatch.setattr(fast, "_ANGLE", 10.0)
    algebra = fast.FastAlgebra()
    found = algebra.truncated_svd(x, 5)
    assert algebra.fallbacks == TASKS
    torch.testing.assert_close(found.s, torch.linalg.svdvals(x)[:, :5], atol=1e-5, rtol=0)


def test_a_wrong_polar_factor_is_not_certified(monkeypatch):
    x = deltas(SPECTRA["real"])[0]
    monkeypatch.setattr(fast_polar, "gram", lambda x: 1.01 * x.mT @ x)
    algebra = fast.FastAlgebra()
    torch.testing.assert_close(algebra.polar(x).dense(), linalg.polar(x).dense(), atol=1e-5, rtol=0)
    assert algebra.fallbacks == 1


def side_by_side(shared, shape=(128, 128), tasks=4):
    """Orthonormal columns of several tasks, which share directions by degrees."""
    g = torch.Generator().manual_seed(0)
    m, n = shape
    common = shared * torch.randn(m, n // tasks, generator=g)
    return torch.cat([torch.linalg.qr(torch.randn(m, n // tasks, generator=g) + common).Q for _ in range(tasks)], 1)


@pytest.mark.parametrize("scale", [1, 1e-25])
@pytest.mark.parametrize("shape", [(128, 128), (300, 128)])
@pytest.mark.parametrize(("shared", "limit"), [(0, 3e-6), (1, 3e-6), (3, 1e-5), (10, 3e-5), (40, 1e-4)])
def test_polar_factors_of_any_condition(shared, limit, shape, scale):
    x = side_by_side(shared, shape)
    algebra = fast.FastAlgebra()
    expected, found = linalg.polar(x.double()).dense(), algebra.polar(scale * x).dense()
    assert (found - expected).norm() < limit * expected.norm()
    assert algebra.fallbacks == 0


@pytest.mark.parametrize("shared", [(0, 0.5), (0, 3), (1, 40)])
def test_polar_factors_in_a_batch_are_those_of_each_matrix(shared):
    x = torch.stack([side_by_side(part, (200, 96)) for part in shared])
    algebra = fast.FastAlgebra()
    products = algebra.polar(x), algebra.polar(x.mT), algebra.polar(x.unsqueeze(1))
    wide, *others = (product.dense() for product in products)
    for found in (wide, others[0].mT, others[1].squeeze(1)):
        expected = linalg.polar(x.double()).dense()
        assert (torch.linalg.matrix_norm(found - expected) < 1e-4 * torch.linalg.matrix_norm(expected)).all()
    assert (algebra.total, algebra.fallbacks) == (6, 0)


@pytest.mark.parametrize(("shared", "size"), [(1, 128), (5, 256)])
def test_the_usual_polar_factors_need_no_float64(monkeypatch, shared, size):
    x = side_by_side(shared, (size, size))
    expected = linalg.polar(x).dense()
    monkeypatch.setattr(torch.Tensor, "double", lambda t: t.to(torch.float64) if t.shape[-1] < size // 4 else None)
    torch.testing.assert_close(fast.gram_polar(x[None])[0].dense()[0], expected, atol=1e-5, rtol=0)


def test_null_directions_of_a_polar_factor_are_left_out():
    x = side_by_side(0)
    x[:, 32:64] = x[:, :32]  # two tasks are the same
    found, good = fast.gram_polar(x[None])
    assert good.all()
    torch.testing.assert_close(found.dense()[0], linalg.polar(x).dense(), atol=1e-5, rtol=0)
    assert found.s.sum() == torch.linalg.matrix_rank(found.dense()[0]) == 96


def test_the_same_on_every_run_and_with_any_number_of_tasks_at_once():
    x = deltas(SPECTRA["noise"])
    together, alone = fast.FastAlgebra().truncated_svd(x, 16), fast.FastAlgebra().truncated_svd(x[2:3], 16)
    assert all(torch.equal(a[2], b[0]) for a, b in zip(together, alone, strict=True))


def test_a_batch_as_a_graphics_card_takes_it_is_as_accurate():
    x = deltas(SPECTRA["real"])
    found, good, _ = fast.leading(x, 5)
    assert good.all()
    expected = linalg.truncated_svd(x.double(), 5)
    assert (found.dense() - expected.dense()).norm() < 1e-5 * expected.dense().norm()


def test_a_layer_that_no_task_changed():
    zeros = torch.zeros(3, 256, 128)
    u, s, vh = fast.FastAlgebra().truncated_svd(zeros, 10)
    assert not any(part.any() for part in (u, s, vh))
    assert (u.shape, s.shape, vh.shape) == ((3, 256, 10), (3, 10), (3, 10, 128))
    assert not tsv_m(zeros, algebra=fast.FastAlgebra()).any()


def test_float64_is_exact():
    x = deltas(SPECTRA["slow"]).double()
    assert torch.equal(fast.FastAlgebra().truncated_svd(x, 8).u, linalg.truncated_svd(x, 8).u)
