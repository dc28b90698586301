"""The quantiser: moving averages, restart, and the gradient that gets past the codes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from vector_quantize_pytorch.vector_quantize_pytorch import rotate_to

from stage1_vqvae.kmeans import kmeans, spread, weighted_choice
from stage1_vqvae.nearest import nearest
from stage1_vqvae.quantizer import Quantizer, tokens


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=generator(seed))


def test_straight_through_value_is_the_code_and_gradient_is_the_identity() -> None:
    quantizer = Quantizer(20, 4, decay=0.99, restart=0.05)
    latents = normal(2, 4, 3, 5).requires_grad_()
    quantized = quantizer(latents)
    assert torch.equal(tokens(quantized.vectors), quantizer.codebook[0][quantized.indices.flatten()])
    assert torch.equal(quantizer.lookup(quantized.indices), quantized.vectors)
    weight = normal(2, 4, 3, 5, seed=3)
    (quantized.vectors * weight).sum().backward()
    assert torch.equal(latents.grad, weight)
    assert quantized.indices.shape == (2, 1, 3, 5)


@pytest.mark.parametrize("depth", [1, 3])
def test_the_rotated_gradient_is_that_of_another_implementation(depth: int) -> None:
    """Oracle: `rotate_to` of vector-quantize-pytorch, which autograd differentiates."""
    quantizer = Quantizer(20, 4, depth=depth, gradient="rotation")
    latents = normal(2, 4, 3, 5).requires_grad_()
    quantized = quantizer(latents)
    assert torch.equal(quantizer.lookup(quantized.indices), quantized.vectors)
    weight = normal(2, 4, 3, 5, seed=3)
    (quantized.vectors * weight).sum().backward()
    points = tokens(latents.detach()).requires_grad_()
    (rotate_to(points, tokens(quantized.vectors.detach())) * tokens(weight)).sum().backward()
    torch.testing.assert_close(tokens(latents.grad), points.grad)


def test_a_vector_without_direction_hands_its_gradient_on() -> None:
    quantizer = Quantizer(2, 3, gradient="rotation")
    quantizer.codebook.copy_(torch.tensor([[[0.0, 0.0, 0.0], [9.0, 0.0, 0.0]]]))
    latents = torch.tensor([[0.0, 0.0, 0.0], [1.0, 1.0, 0.0]]).t().reshape(1, 3, 1, 2).requires_grad_()  # both code 0
    weight = normal(1, 3, 1, 2)
    (quantizer(latents).vectors * weight).sum().backward()
    assert torch.equal(latents.grad, weight)


def test_forward_changes_nothing_and_update_follows_the_lookup() -> None:
    quantizer = Quantizer(8, 3, decay=0.5, restart=0)
    before = {name: value.clone() for name, value in quantizer.state_dict().items()}
    quantized = quantizer(normal(2, 3, 4, 4))
    assert all(torch.equal(value, before[name]) for name, value in quantizer.state_dict().items())
    vectors = quantized.vectors.clone()
    quantizer.update(quantized, generator=generator())
    assert not torch.equal(quantizer.codebook[0], before["codebook"])
    assert torch.equal(quantized.vectors, vectors)  # what the decoder saw stays what it saw


def test_update_is_the_moving_average_of_counts_and_sums() -> None:
    quantizer = Quantizer(5, 2, decay=0.8, restart=0)
    latents = normal(3, 2, 4, 4)
    counts, sums = quantizer.counts[0].double(), quantizer.sums[0].double()
    quantized = quantizer(latents)
    quantizer.update(quantized, generator=generator())
    owner, points = quantized.indices.flatten(), tokens(latents).double()
    for code in range(5):
        mine = points[owner == code]
        count = 0.8 * counts[code] + 0.2 * len(mine)
        total = 0.8 * sums[code] + 0.2 * mine.sum(0)
        assert torch.allclose(quantizer.counts[0][code].double(), count, rtol=1e-5)
        assert torch.allclose(quantizer.codebook[0][code].double(), total / count, atol=1e-5)


def test_one_step_equals_vector_quantize_pytorch() -> None:
    oracle_module = pytest.importorskip("vector_quantize_pytorch")
    k, d = 12, 6
    oracle = oracle_module.VectorQuantize(dim=d, codebook_size=k, decay=0.9, commitment_weight=0.25, eps=1e-9)
    quantizer = Quantizer(k, d, decay=0.9, restart=0)
    counts = torch.arange(1.0, k + 1)
    quantizer.counts[0].copy_(counts)
    quantizer.sums[0].copy_(quantizer.codebook[0] * counts[:, None])
    book = oracle._codebook
    book.embed.data.copy_(quantizer.codebook)
    book.embed_avg.data.copy_(quantizer.sums)
    book.cluster_size.data.copy_(counts[None])
    oracle.train()
    latents = normal(4, d, 5, 5)
    theirs, indices, loss = oracle(latents.permute(0, 2, 3, 1).reshape(1, -1, d))
    ours = quantizer(latents)
    assert torch.equal(ours.indices.flatten(), indices.flatten())
    assert torch.allclose(tokens(ours.vectors), theirs[0], atol=1e-5)
    assert torch.allclose(0.25 * (ours.latents - ours.vectors).square().mean(), loss.sum(), rtol=1e-4)
    quantizer.update(ours, generator=generator())
    assert torch.allclose(quantizer.counts[0], book.cluster_size[0], rtol=1e-4)
    assert torch.allclose(quantizer.codebook[0], book.embed[0], atol=1e-4)


def test_unused_code_keeps_its_place_for_ever() -> None:
    quantizer = Quantizer(3, 2, decay=0.5, restart=0)
    quantizer.codebook[0].copy_(torch.tensor([[0.0, 0.0], [1.0, 0.0], [99.0, 99.0]]))
    quantizer.sums[0].copy_(quantizer.codebook[0])
    for step in range(300):  # 0.5 ** 300 underflows in float32
        quantizer.update(quantizer(normal(1, 2, 4, 4, seed=step)), generator=generator())
    assert torch.allclose(quantizer.codebook[0][2], torch.tensor([99.0, 99.0]))
    assert quantizer.codebook[0].isfinite().all()


def test_restart_resets_all_three_buffers_onto_latents_of_the_step() -> None:
    quantizer = Quantizer(6, 2, decay=0.9, restart=0.1)
    quantizer.codebook[0].copy_(torch.tensor([[0.0, 0.0], [1.0, 1.0], *[[500.0, 500.0]] * 4]))
    even = 64 / 6
    quantizer.counts[0].copy_(torch.tensor([even, even, 0.01, 0.01, 0.01, even]))
    quantizer.sums[0].copy_(quantizer.codebook[0] * quantizer.counts[0][:, None])
    latents = normal(4, 2, 4, 4)
    moved = quantizer.update(quantizer(latents), generator=generator())
    points = tokens(latents)
    assert int(moved) == 3
    for code in (2, 3, 4):
        assert (quantizer.codebook[0][code] == points).all(1).any()
        assert quantizer.counts[0][code] == pytest.approx(even)
        assert torch.allclose(quantizer.sums[0][code], quantizer.codebook[0][code] * even)
    assert len(torch.unique(quantizer.codebook[0][2:5], dim=0)) == 3  # three different latents
    assert torch.allclose(quantizer.codebook[0][5], torch.tensor([500.0, 500.0]))  # used enough of late: stays


def test_restart_prefers_what_is_badly_coded() -> None:
    quantizer = Quantizer(4, 1, decay=0.9, restart=0.5)
    quantizer.codebook[0].zero_()
    quantizer.sums[0].zero_()
    quantizer.counts[0].copy_(torch.tensor([100.0, 0, 0, 0]))
    latents = torch.zeros(1, 1, 10, 10)  # a black background: no distance, so no replacement comes from it
    latents[0, 0, :3, 0] = torch.tensor([3.0, 4.0, 5.0])
    quantizer.update(quantizer(latents), generator=generator())
    assert set(quantizer.codebook[0][1:].flatten().tolist()) == {3.0, 4.0, 5.0}


def test_more_dead_codes_than_tokens() -> None:
    quantizer = Quantizer(50, 2, decay=0.5, restart=0.9)
    quantizer.counts[0].zero_()
    quantizer.sums[0].zero_()
    moved = quantizer.update(quantizer(normal(1, 2, 2, 2)), generator=generator())
    assert 0 < int(moved) <= 4
    assert quantizer.codebook[0].isfinite().all()


def test_training_the_codebook_alone_uses_it_all_and_lowers_the_error() -> None:
    quantizer = Quantizer(16, 2, decay=0.9, restart=0.05)  # untrained: most codes far from most points
    latents = normal(8, 2, 8, 8) * 5
    first = (quantizer(latents).vectors - latents).square().mean()
    for step in range(150):
        quantizer.update(quantizer(latents), generator=generator(step))
    quantized = quantizer(latents)
    assert len(quantized.indices.unique()) == 16
    assert (quantized.vectors - latents).square().mean() < first / 4


def residual(depth: int, codes: int = 12, dim: int = 4) -> Quantizer:
    quantizer = Quantizer(codes, dim, depth=depth, decay=0.8, restart=0)
    quantizer.start(normal(400, dim, seed=7), tokens_per_step=100, generator=generator())
    return quantizer


def test_each_depth_codes_what_the_ones_before_left_over() -> None:
    quantizer, latents = residual(3), normal(2, 4, 3, 5)
    quantized = quantizer(latents)
    assert quantized.indices.shape == (2, 3, 3, 5)
    left, total = tokens(latents), torch.zeros(30, 4)
    for depth in range(3):
        chosen = torch.cdist(left.double(), quantizer.codebook[depth].double()).argmin(1)
        assert torch.equal(quantized.indices[:, depth].flatten(), chosen)
        total, left = total + quantizer.codebook[depth][chosen], left - quantizer.codebook[depth][chosen]
    assert torch.equal(tokens(quantized.vectors), total)
    assert torch.equal(quantizer.lookup(quantized.indices), quantized.vectors)


def test_more_depths_leave_less() -> None:
    latents = normal(8, 4, 6, 6, seed=3)
    errors = [float((residual(depth)(latents).vectors - latents).square().mean()) for depth in (1, 2, 4)]
    assert errors[1] < 0.6 * errors[0]
    assert errors[2] < 0.6 * errors[1]


def test_update_of_a_residual_codebook_moves_each_depth_by_its_own_remainder() -> None:
    quantizer, latents = residual(2), normal(3, 4, 4, 4)
    before = quantizer.codebook.clone()
    counts, sums = quantizer.counts.clone(), quantizer.sums.clone()
    quantized = quantizer(latents)
    quantizer.update(quantized, generator=generator())
    first, second = quantized.indices.permute(1, 0, 2, 3).reshape(2, -1)
    left = tokens(latents) - before[0][first]  # by the codebook of the lookup, not by the moved one
    for code in range(12):
        mine = left[second == code]
        count, total = 0.8 * counts[1, code] + 0.2 * len(mine), 0.8 * sums[1, code] + 0.2 * mine.sum(0)
        assert torch.allclose(quantizer.codebook[1, code], total / count, atol=1e-5)


def test_start_is_consistent() -> None:
    quantizer = Quantizer(10, 3, decay=0.99, restart=0.05)
    quantizer.start(normal(500, 3), tokens_per_step=100, generator=generator())
    assert torch.allclose(quantizer.sums[0], quantizer.codebook[0] * quantizer.counts[0][:, None])
    assert quantizer.counts[0].sum().item() == pytest.approx(100, rel=0.1)
    assert (quantizer.counts[0] >= 1).all()


def test_kmeans_finds_separate_clusters() -> None:
    truth = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0], [10.0, 10.0]])
    points = (truth[:, None] + 0.1 * normal(4, 50, 2)).reshape(-1, 2)
    centres, counts = kmeans(points, 4, generator=generator())
    assert counts.tolist() == [50] * 4
    assert (nearest(truth, centres).sort().values == torch.arange(4)).all()
    assert torch.cdist(truth, centres).min(1).values.max() < 0.1


def test_kmeans_with_fewer_points_than_centres() -> None:
    centres, counts = kmeans(normal(5, 3), 12, generator=generator())
    assert centres.shape == (12, 3)
    assert counts.sum() == 5
    assert centres.isfinite().all()
    same, _ = kmeans(torch.ones(30, 3), 4, generator=generator())
    assert torch.equal(same, torch.ones(4, 3))


def test_spread_is_reproducible_and_draws_several_per_round_for_large_codebooks() -> None:
    points = normal(3000, 2)
    a, b = (spread(points, 1100, generator=generator(5)) for _ in range(2))
    assert torch.equal(a, b)
    assert a.shape == (1100, 2)
    assert len(torch.unique(a, dim=0)) > 1090


def test_weighted_choice_follows_the_weights() -> None:
    weights = torch.tensor([0.0, 1.0, 3.0])
    draws = np.array([int(weighted_choice(weights, 1, generator=generator(seed))[0]) for seed in range(2000)])
    assert (draws != 0).all()
    assert (draws == 2).mean() == pytest.approx(0.75, abs=0.04)
    assert sorted(weighted_choice(weights, 9, generator=generator()).tolist()) == [0, 1, 2]


def test_the_weight_of_a_step_takes_the_place_of_the_decay() -> None:
    latents = normal(2, 3, 4, 4)
    slow, fast = Quantizer(8, 3, decay=0.99, restart=0), Quantizer(8, 3, decay=0.5, restart=0)
    fast.load_state_dict(slow.state_dict())
    slow.update(slow(latents), generator=generator(), weight=torch.tensor(0.5))
    fast.update(fast(latents), generator=generator())
    assert torch.equal(slow.codebook, fast.codebook)
    assert torch.equal(slow.counts, fast.counts)
