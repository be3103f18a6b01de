"""Optimisers, their schedule and the moving average: every update is the one that the formula gives."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import nn

from runtime.ema import EMA
from runtime.optimizer import Muon, OptimizerConfig, build_optimizers, orthogonalise


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-3), (torch.bfloat16, 0.1)])
@pytest.mark.parametrize("shape", [(32, 32), (16, 64), (64, 16), (1, 8)])
def test_orthogonalising_moves_all_singular_values_near_one_and_keeps_their_directions(
    shape: tuple[int, int], dtype: torch.dtype, tolerance: float
):
    generator = torch.Generator().manual_seed(0)
    rank = min(shape)
    left = torch.linalg.qr(torch.randn(shape[0], rank, generator=generator)).Q
    right = torch.linalg.qr(torch.randn(shape[1], rank, generator=generator)).Q
    matrix = 100 * left @ torch.logspace(-1.5, 0, rank).diag() @ right.T
    result = orthogonalise(matrix, dtype)
    assert result.dtype == torch.float32
    values = torch.linalg.svdvals(result)
    assert 0.5 <= values.min() and values.max() <= 1.5
    kept = left @ (left.T @ result @ right).diag().diag() @ right.T
    torch.testing.assert_close(kept, result, atol=tolerance, rtol=0)


def test_matrices_orthogonalised_together_come_out_as_they_do_alone():
    matrices = torch.randn(3, 8, 5, generator=torch.Generator().manual_seed(0)) * torch.tensor(
        [[[1e-3]], [[1.0]], [[1e3]]]
    )
    together = orthogonalise(matrices)
    for matrix, result in zip(matrices, together, strict=True):
        torch.testing.assert_close(orthogonalise(matrix), result, atol=1e-3, rtol=0)


def test_muons_update_is_the_formula_by_hand():
    torch.manual_seed(0)
    weight = nn.Parameter(torch.randn(8, 2, 1, 2))  # a kernel: a matrix of 8 x 4
    first, second = torch.randn(2, 8, 2, 1, 2)
    before = weight.detach().clone()
    optimizer = Muon([weight], lr=0.1, momentum=0.9, weight_decay=0.5)
    expected, average = before.clone(), torch.zeros_like(before)
    for gradient in (first, second):
        weight.grad = gradient.clone()
        optimizer.step()
        average = 0.9 * average + 0.1 * gradient
        update = orthogonalise((0.1 * gradient + 0.9 * average).view(8, 4)) * math.sqrt(2)
        expected = expected * (1 - 0.1 * 0.5) - 0.1 * update.view_as(expected)
    torch.testing.assert_close(weight.detach(), expected, atol=1e-5, rtol=1e-5)


def test_every_parameter_has_exactly_one_optimiser(tiny_transformer: Callable):
    transformer = tiny_transformer(500)
    outer = [transformer.embedding.weight, transformer.head.weight]
    adam, muon = build_optimizers(transformer.named_parameters(), outer, OptimizerConfig())
    groups = [group for optimizer in (adam, muon) for group in optimizer.param_groups]
    counted = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(counted) == sorted(id(parameter) for parameter in transformer.parameters())
    assert {id(p) for p in outer} <= {id(p) for group in adam.param_groups for p in group["params"]}
    assert all(parameter.ndim == 2 for parameter in muon.param_groups[0]["params"])
    for group in adam.param_groups:
        assert all((parameter.ndim >= 2) == (group["weight_decay"] > 0) for parameter in group["params"])
    assert [group["initial_lr"] for group in groups] == [1e-3, 1e-3, 0.02]
    config = OptimizerConfig(muon_learning_rate=None)
    assert len(build_optimizers(transformer.named_parameters(), outer, config)) == 1


def test_the_average_is_as_by_hand():
    model = nn.Sequential(nn.Linear(1, 1, bias=False), nn.BatchNorm1d(1, affine=False))
    nn.init.constant_(model[0].weight, 2.0)
    ema = EMA(model, decay=0.5)
    expected = 2.0
    for step, value in enumerate((4.0, -1.0, 7.0, 3.0, 3.0, 0.0, 1.0, 5.0, 9.0, 2.0)):
        nn.init.constant_(model[0].weight, value)
        model[1].running_mean.fill_(value)
        ema.update(model, step)
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * value
        assert float(ema.module[0].weight.detach()) == pytest.approx(expected, rel=1e-5)
        assert float(ema.module[1].running_mean) == value  # buffers are copied
    assert decay == 0.5 and float(model[0].weight.detach()) == 2.0
    assert not any(parameter.requires_grad for parameter in ema.module.parameters())


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (dict(warmup_steps=4, decay_share=0.5), [0.25, 0.5, 0.75, 1, 1, 1, 0.8, 0.6, 0.4, 0.2]),
        (dict(warmup_steps=0, decay_share=0.2), [1, 1, 1, 1, 1, 1, 1, 1, 1, 0.5]),
        (dict(warmup_steps=0, decay_share=0.2, final_factor=0.5), [1, 1, 1, 1, 1, 1, 1, 1, 1, 0.75]),
        (dict(warmup_steps=0, decay_share=0.0), [1] * 10),
        (
            dict(warmup_steps=1, schedule="cosine"),
            [(1 + math.cos(math.pi * step / 10)) / 2 for step in range(10)],
        ),
        (
            dict(warmup_steps=2, schedule="cosine", final_factor=0.1),
            [(1, 0.5)[step == 0] * (0.1 + 0.9 * (1 + math.cos(math.pi * step / 10)) / 2) for step in range(10)],
        ),
    ],
)
def test_the_schedule_is_as_by_hand(settings: dict, expected: list[float]):
    config = OptimizerConfig(**settings)
    assert [config.factor(step, 10) for step in range(10)] == pytest.approx(expected)
