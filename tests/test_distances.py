"""Distances between sets are what theory says, and see what is wrong with pictures."""

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter

from data.shapes.source import Shapes, ShapesConfig
from metrics.__main__ import judge, save_npz
from metrics.distances import (
    frechet_distance,
    frechet_distance_limit,
    kernel_distance,
    near_copies,
    neighbours,
    spread,
)
from metrics.extractors import RandomConvolutions, features_of

ROOT = Path(__file__).parent.parent
COUNT = 200


def normal(count: int, dim: int, seed: int, mean: float = 0.0, scale: float = 1.0) -> torch.Tensor:
    return torch.randn(count, dim, generator=torch.Generator().manual_seed(seed)) * scale + mean


def with_moments(count: int, dim: int, seed: int, mean: float, scale: float) -> torch.Tensor:
    """Features whose own mean and covariance are exactly (mean, ...) and scale^2 times the unit matrix."""
    x = normal(count, dim, seed).double()
    x = x - x.mean(0)
    root = torch.linalg.cholesky(x.T @ x / (count - 1))
    return torch.linalg.solve_triangular(root, x.T, upper=False).T * scale + mean


def test_a_set_is_at_no_distance_of_itself():
    for count in (20, 300):  # fewer and more pictures than features
        x = normal(count, 64, 0)
        assert abs(frechet_distance(x, x[torch.randperm(count)])) < 1e-9


@pytest.mark.parametrize(("mean", "scale"), [(0.5, 1.0), (0.0, 2.0), (-1.0, 0.3)])
def test_frechet_distances_of_gaussians_are_those_of_the_closed_form(mean, scale):
    x, y = with_moments(100, 8, 0, mean, scale), with_moments(100, 8, 1, 0.0, 1.0)
    assert frechet_distance(x, y) == pytest.approx(8 * mean**2 + 8 * (scale - 1) ** 2, abs=1e-9)


def test_a_frechet_distance_is_that_of_square_roots_of_matrices():
    x, y = (normal(100, 6, seed) @ normal(6, 6, seed + 5) for seed in (0, 1))
    left, right = (torch.cov(features.double().T) for features in (x, y))
    product = torch.linalg.eigvals(left @ right).sqrt().real.sum()
    expected = ((x.double().mean(0) - y.double().mean(0)) ** 2).sum() + left.trace() + right.trace() - 2 * product
    assert frechet_distance(x, y) == pytest.approx(float(expected), rel=1e-6)


def test_a_frechet_distance_falls_with_the_size_of_the_sets_and_its_limit_does_not():
    x, y = normal(2000, 32, 0), normal(2000, 32, 1)
    small, large = frechet_distance(x[:200], y[:200]), frechet_distance(x, y)
    assert small > 5 * large > 0
    assert abs(frechet_distance_limit(x, y)) < large / 2
    deviation = 2 * 0.5 * math.sqrt(32 * 2 / 2000)  # of what the sets' own means add to 32 x 0.5^2
    assert frechet_distance_limit(x + 0.5, y) == pytest.approx(8, abs=3 * deviation)


def test_a_kernel_distance_of_like_sets_is_zero_within_its_error():
    values = [kernel_distance(normal(200, 16, seed), normal(200, 16, seed + 100)) for seed in range(10)]
    assert sum(abs(value) <= 3 * error for value, error in values) >= 9
    assert any(value < 0 for value, _ in values)
    value, error = kernel_distance(normal(1000, 16, 0, mean=0.5), normal(1000, 16, 1))
    assert value > 5 * error


def test_neighbours_tell_samples_that_are_wrong_from_samples_that_are_missing():
    reference = torch.cat([normal(100, 4, 0), normal(100, 4, 1, mean=50)])
    same = torch.cat([normal(100, 4, 2), normal(100, 4, 3, mean=50)])
    dropped = torch.cat([normal(100, 4, 2), normal(100, 4, 3)])
    wrong = torch.cat([normal(100, 4, 2), normal(100, 4, 3, mean=-50)])
    good, missing, strange = (neighbours(samples, reference) for samples in (same, dropped, wrong))
    assert min(good) > 0.85
    assert missing.precision > 0.85 and missing.recall < 0.6 and missing.coverage < 0.6
    assert strange.precision < 0.6 and strange.density < 0.6
    assert neighbours(reference, reference) == pytest.approx((1, 1, neighbours(reference, reference).density, 1))


@pytest.mark.parametrize("distance", [frechet_distance, kernel_distance, neighbours])
def test_sets_that_cannot_be_compared_are_refused(distance):
    x = normal(50, 4, 0)
    for other, message in ((x[:40], "as many"), (x[:, :3], "as many"), (x[:1], "at least 2"), (x / 0, "not finite")):
        with pytest.raises(ValueError, match=message):
            distance(other, x)


def test_copies_are_seen_and_new_pictures_are_not_taken_for_copies():
    training, held_out, fresh = (normal(400, 16, seed) for seed in range(3))
    assert near_copies(fresh, training, held_out) < 0.04
    copied = torch.cat([training[:100] + 1e-3, fresh[:300]])
    assert near_copies(copied, training, held_out) == pytest.approx(
        0.25 + 0.75 * near_copies(fresh, training, held_out), abs=0.02
    )


def test_the_spread_of_a_prompts_pictures_lies_between_none_and_that_of_all():
    middles = normal(100, 16, 0)[:, None]
    for scale, expected in ((0.0, 0.0), (0.5, 0.447), (100.0, 1.0)):
        pictures = middles + scale * normal(100 * 6, 16, 1).view(100, 6, 16)
        assert spread(pictures) == pytest.approx(expected, abs=0.03)  # scale / sqrt(1 + scale^2)


def test_sets_too_small_for_what_is_asked_are_refused():
    x = normal(12, 4, 0)
    for refused in (kernel_distance, frechet_distance_limit, lambda a, b: neighbours(a, b, 12)):
        with pytest.raises(ValueError, match="more pictures|at least 40"):
            refused(x, x)


def shapes(start: int) -> np.ndarray:
    source = Shapes(ShapesConfig(start + COUNT, split="val", image_size=32, world="shapes32"))
    return np.stack([source[index].image for index in range(start, start + COUNT)])


@pytest.fixture(scope="module")
def true() -> tuple[np.ndarray, np.ndarray]:
    return shapes(0), shapes(COUNT)


def blurred(pixels: np.ndarray) -> np.ndarray:
    return np.stack([np.asarray(Image.fromarray(image).filter(ImageFilter.GaussianBlur(1))) for image in pixels])


def noised(pixels: np.ndarray) -> np.ndarray:
    noise = np.random.default_rng(0).normal(0, 15, pixels.shape)
    return np.clip(pixels + noise, 0, 255).round().astype(np.uint8)


def without_reds(pixels: np.ndarray) -> np.ndarray:
    """Pictures with red in them give way to copies of others."""
    red = ((pixels[..., 0] > 200) & (pixels[..., 1:] < 60).all(-1)).any((1, 2))
    assert 0 < red.sum() < len(pixels)
    return np.where(red[:, None, None, None], np.resize(pixels[~red], pixels.shape), pixels)


def one_picture(pixels: np.ndarray) -> np.ndarray:
    return np.repeat(pixels[:1], len(pixels), 0)


@pytest.mark.parametrize("spoil", [blurred, noised, without_reds, one_picture])
def test_distances_grow_when_pictures_are_spoilt(true, spoil):
    reference, others = true
    figures = judge(RandomConvolutions(), reference, spoil(others), reference, others)
    spoilt, floor = figures["samples"], figures["true pictures"]
    assert spoilt["frechet"] > floor["frechet"]
    assert spoilt["kernel"] > floor["kernel"]
    if spoil is one_picture:
        assert spoilt["coverage"] < floor["coverage"]
    assert abs(figures["reconstructions"]["frechet"]) < 1e-6  # here they are the reference itself


def test_features_depend_neither_on_batches_nor_on_order(true):
    pixels, extractor = true[0], RandomConvolutions()
    features = features_of(extractor, pixels)
    assert torch.allclose(features_of(extractor, pixels[::-1].copy(), 7).flip(0), features, atol=1e-5)
    assert torch.equal(features_of(RandomConvolutions(), pixels), features)
    assert not torch.allclose(features_of(RandomConvolutions(seed=1), pixels), features, atol=0.1)


def test_pictures_that_are_no_bytes_are_refused(true):
    for pixels in (true[0].astype(np.float32) / 127.5 - 1, true[0].transpose(0, 3, 1, 2)):
        with pytest.raises(ValueError, match="uint8"):
            features_of(RandomConvolutions(), pixels)


def test_samples_are_written_as_the_evaluator_of_guided_diffusion_reads_them(true, tmp_path):
    save_npz(tmp_path / "samples", true[0])
    assert [path.name for path in tmp_path.iterdir()] == ["samples"]
    with np.load(tmp_path / "samples") as file:
        assert file.files == ["arr_0"] and np.array_equal(file["arr_0"], true[0])


def test_the_command_writes_figures_that_are_finite(tmp_path):
    command = [sys.executable, "-m", "metrics", "checkpoints/shapes32", "--num-samples", "50"]
    command += ["--out", str(tmp_path / "figures.json"), "--npz", str(tmp_path / "samples.npz")]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    result = json.loads((tmp_path / "figures.json").read_text())
    assert result["command"].startswith("python -m metrics checkpoints/shapes32")
    (sets,) = result["figures"]["extractors"].values()
    for figures in sets.values():
        assert all(map(math.isfinite, figures.values()))
    assert np.load(tmp_path / "samples.npz")["arr_0"].shape == (50, 32, 32, 3)
