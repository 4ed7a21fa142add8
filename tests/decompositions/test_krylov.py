"""Krylov spaces of Gram matrices, against eigendecompositions in float64."""

import pytest
import torch
from models import matrix

from tsv_exp.decompositions import fast, krylov


def test_a_krylov_space_grows_until_the_slowest_spectrum_of_a_batch_has_converged(monkeypatch):
    sizes, eigenvectors = [], krylov._projected_eigenvectors
    monkeypatch.setattr(
        krylov,
        "_projected_eigenvectors",
        lambda projected, *args: sizes.append(projected.shape[-1]) or eigenvectors(projected, *args),
    )
    g = torch.Generator().manual_seed(0)
    slow, steep = (matrix(768, 512, g, power=power).float() for power in (0.35, 1))
    last = []
    for x in (slow.unsqueeze(0), steep.unsqueeze(0), torch.stack([slow, steep])):
        sizes.clear()
        grams = x.mT @ x
        basis, _ = krylov.top_vectors(grams, 48, 72, 72, 128)
        exact = torch.linalg.eigh(grams[:1].double()).eigenvectors[..., -48:].float()
        assert torch.linalg.matrix_norm(exact - basis[:1] @ (basis[:1].mT @ exact)) < 1e-4
        last.append(sizes[-1])
    assert sizes[0] == 128 < last[1] < last[0] == last[2]


def test_a_space_says_what_would_have_been_enough():
    g = torch.Generator().manual_seed(0)
    needed = []
    for x in (matrix(768, 512, g, power=0.5, gap=48).float(), matrix(768, 512, g, power=0.35).float()):
        grams = (x.mT @ x).unsqueeze(0)
        exact = torch.linalg.eigh(grams.double()).eigenvectors[..., -48:].float()
        _, enough = krylov.top_vectors(grams, 48, 72, 72, 192)
        basis, again = krylov.top_vectors(grams, 48, 72, 72, enough)
        assert torch.linalg.matrix_norm(exact - basis @ (basis.mT @ exact)) < 1e-4
        assert again <= enough
        needed.append(enough)
    assert needed[0] < 192 < needed[1]


def test_eigenvectors_of_a_steep_spectrum_are_corrected_where_a_ritz_step_does_not_see_it():
    g, k, width = torch.Generator().manual_seed(0), 64, 96
    x = matrix(512, 256, g, power=1).float()
    projected = (x.mT @ x).unsqueeze(0)
    exact = torch.linalg.eigh(projected.double()).eigenvectors.flip(-1)[..., :k]

    def missed(vectors):
        """The part of the exact top k outside of the span of the vectors."""
        basis = torch.linalg.qr(vectors.double()).Q
        return torch.linalg.matrix_norm(exact - basis @ (basis.mT @ exact))

    plain = torch.linalg.eigh(projected).eigenvectors.flip(-1)[..., :width]
    corrected = krylov._projected_eigenvectors(projected.triu(), k, width)[0][..., :width]
    assert missed(corrected) < 1e-5 < missed(plain)
    assert (corrected.mT @ corrected - torch.eye(width)).abs().max() < 1e-6


@pytest.mark.parametrize("rank", [16, 24, 40])
def test_a_krylov_space_stays_orthonormal_beyond_the_rank(rank):
    g = torch.Generator().manual_seed(0)
    x = torch.randn(512, rank, generator=g) @ torch.randn(rank, 384, generator=g)
    basis, _ = krylov.top_vectors((x.mT @ x).unsqueeze(0), 48, 72, 72, 200)
    assert (basis.mT @ basis - torch.eye(72)).abs().max() < 1e-5
    algebra = fast.FastAlgebra()
    found = algebra.truncated_svd(x.unsqueeze(0), 48)
    assert algebra.fallbacks == 0
    assert (found.s[0] > 0).sum() == rank
    torch.testing.assert_close(found.dense()[0], x, atol=1e-5 * float(found.s[0, 0]), rtol=0)
