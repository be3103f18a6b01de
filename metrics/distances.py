"""How far apart two sets of pictures are, as sets of features: a row for each picture, whatever made the features."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

# (pictures, features); sets of unequal shapes are refused in words
Features = Float[Tensor, "_ _"]


class Estimate(NamedTuple):
    """A mean, and its standard error."""

    value: float
    error: float


class Neighbours(NamedTuple):
    """Shares between 0 and 1, but for density, which may pass 1."""

    # of the samples, those within the reach of a reference picture
    precision: float
    # of the reference pictures, those within the reach of a sample
    recall: float
    # reference pictures within whose reach a sample lies, over how many one expects
    density: float
    # of the reference pictures, those that have a sample within reach
    coverage: float


def compare(samples: Features, reference: Features) -> dict[str, float]:
    """All figures of this file, by name; raises as they do."""
    kernel = kernel_distance(samples, reference)
    return {
        "frechet": frechet_distance(samples, reference),
        "frechet_limit": frechet_distance_limit(samples, reference),
        "kernel": kernel.value,
        "kernel_error": kernel.error,
        **neighbours(samples, reference)._asdict(),
    }


def frechet_distance(samples: Features, reference: Features) -> float:
    """Squared Frechet distance between the Gaussians of two sets.

    With the centred features A and B over the roots of their degrees of freedom, the trace of the root of the product
    of the covariances is the sum of the singular values of A B^T, and of R_A R_B^T from their QR decompositions. That
    is exact also where there are fewer pictures than features, and never imaginary.

    Finite sets come out too far apart, by about a constant over their size: compare only values of one size, beside
    that of two sets of true pictures.

    Raises:
        ValueError: The sets differ in size or in number of features, have fewer than 2 rows, or values are not finite.

    Source: Heusel et al., "GANs Trained by a Two Time-Scale Update Rule Converge to a Local Nash Equilibrium", sec. 2.
    """
    samples, reference = _checked(samples, reference)
    between = ((samples.mean(0) - reference.mean(0)) ** 2).sum()
    roots = []
    for features in (samples, reference):
        centred = (features - features.mean(0)) / (len(features) - 1) ** 0.5
        roots.append(torch.linalg.qr(centred, mode="r").R)
    within = sum((root**2).sum() for root in roots)
    return float(between + within - 2 * torch.linalg.svdvals(roots[0] @ roots[1].T).sum())


def frechet_distance_limit(samples: Features, reference: Features, num_sizes: int = 10, seed: int = 0) -> float:
    """What the Frechet distance tends to as both sets grow: the intercept of a line in 1 / size.

    Args:
        samples, reference: Sets of one size, at least 40 rows.
        num_sizes: Sizes that the line is fitted through, from a quarter of the rows to all of them.
        seed: Of the subsets, drawn without replacement.

    Raises:
        ValueError: As `frechet_distance`, or fewer than 40 rows.

    Source: Chong and Forsyth, "Effectively Unbiased FID and Inception Score", section 4; there only the samples shrink.
    """
    samples, reference = _checked(samples, reference)
    if len(samples) < 40:
        raise ValueError(f"{len(samples)} pictures are too few to tell where a distance tends to: take at least 40")
    generator = torch.Generator().manual_seed(seed)
    sizes = torch.linspace(len(samples) // 4, len(samples), num_sizes).long()
    distances = []
    for size in sizes.tolist():
        chosen = [
            features[torch.randperm(len(features), generator=generator)[:size]] for features in (samples, reference)
        ]
        distances.append(frechet_distance(*chosen))
    line = torch.stack([torch.ones(num_sizes, dtype=torch.float64), 1 / sizes.double()], 1)
    return float(torch.linalg.lstsq(line, torch.tensor(distances, dtype=torch.float64)[:, None]).solution[0])


def kernel_distance(samples: Features, reference: Features, num_blocks: int = 10, seed: int = 0) -> Estimate:
    """Kernel distance (KID with Inception's features): unbiased at any size, so it may come out below zero.

    The sets are shuffled and cut into blocks that share no picture, so that their spread tells the error of their mean.

    Raises:
        ValueError: As `frechet_distance`, or there are fewer than two pictures for each block.

    Source: Binkowski et al., "Demystifying MMD GANs", section 4: the kernel (x.y / d + 1)^3.
    """
    samples, reference = _checked(samples, reference)
    size = len(samples) // num_blocks
    if size < 2:
        raise ValueError(f"{len(samples)} pictures don't make {num_blocks} blocks of two or more: take more pictures")
    generator = torch.Generator().manual_seed(seed)
    left, right = (features[torch.randperm(len(features), generator=generator)] for features in (samples, reference))
    values = []
    for block in range(num_blocks):
        x, y = (features[block * size : (block + 1) * size] for features in (left, right))
        own = sum((_kernel(z, z).sum() - _kernel(z, z).trace()) / (size * (size - 1)) for z in (x, y))
        values.append(own - 2 * _kernel(x, y).mean())
    found = torch.stack(values)
    return Estimate(float(found.mean()), float(found.std() / num_blocks**0.5))


def neighbours(samples: Features, reference: Features, num_nearest: int = 5) -> Neighbours:
    """Whether samples lie where the reference lies, and the other way round.

    Args:
        samples, reference: Sets of one size, more than `num_nearest`.
        num_nearest: A picture's reach is the distance to this neighbour of its own set.

    Raises:
        ValueError: As `frechet_distance`, or no more pictures than `num_nearest`.

    Source: Kynkaanniemi et al., "Improved Precision and Recall Metric", equation 1; Naeem et al., "Reliable Fidelity
    and Diversity Metrics", equations 3 and 4.
    """
    samples, reference = _checked(samples, reference)
    if len(samples) <= num_nearest:
        raise ValueError(f"{len(samples)} pictures have no {num_nearest} neighbours each: take more pictures")
    apart = torch.cdist(reference, samples)
    near: Bool[Tensor, "r s"] = apart <= _reach(reference, num_nearest)[:, None]
    near_samples: Bool[Tensor, "r s"] = apart <= _reach(samples, num_nearest)[None, :]
    return Neighbours(
        precision=float(near.any(0).double().mean()),
        recall=float(near_samples.any(1).double().mean()),
        density=float(near.double().sum(0).mean() / num_nearest),
        coverage=float(near.any(1).double().mean()),
    )


def inception_score(log_probabilities: Float[Tensor, "n c"], num_splits: int = 10, seed: int = 0) -> Estimate:
    """How sure a classifier is of each picture and how many classes it sees: exp of the mutual information.

    Args:
        log_probabilities: Of the classes of each picture; the Inception score is that of Inception's.
        num_splits: Parts that share no picture; their mean is the value, their spread over the root of their number the
            error. Fewer pictures in a part give lower values: compare only at one size.
        seed: Of the shuffling.

    Raises:
        ValueError: There are fewer than two pictures for each part.

    Source: Salimans et al., "Improved Techniques for Training GANs", section 4.
    """
    if len(log_probabilities) < 2 * num_splits:
        raise ValueError(f"{len(log_probabilities)} pictures don't make {num_splits} parts of two or more: take more")
    order = torch.randperm(len(log_probabilities), generator=torch.Generator().manual_seed(seed))
    scores = []
    for part in log_probabilities.double()[order].tensor_split(num_splits):
        mean = part.exp().mean(0, keepdim=True).clamp_min(1e-300).log()
        scores.append((part.exp() * (part - mean)).sum(1).mean().exp())
    found = torch.stack(scores)
    return Estimate(float(found.mean()), float(found.std() / num_splits**0.5))


def near_copies(samples: Features, training: Features, held_out: Features, share: float = 0.01) -> float:
    """Share of samples that are nearer to a picture of the training set than all but `share` of held-out pictures are.

    A model that copies nothing comes to about `share`.

    Args:
        samples: (n, features).
        training: Of pictures that were learned from; more of them find more copies.
        held_out: Of pictures that were not.
        share: Of the held-out pictures, those that count as near by chance.
    """
    near, usual = (torch.cdist(rows.double(), training.double()).amin(1) for rows in (samples, held_out))
    return float((near < usual.quantile(share)).double().mean())


def spread(features: Float[Tensor, "prompts images features"]) -> float:
    """How far apart pictures of one prompt are, as a share of that of different prompts: 0 to about 1.

    Args:
        features: Of as many pictures, two or more, of each of two or more prompts.
    """
    rows = features.double()
    apart = torch.cdist(rows.flatten(0, 1), rows.flatten(0, 1))
    prompt = torch.arange(len(rows)).repeat_interleave(rows.shape[1])
    same = prompt[:, None] == prompt[None, :]
    other = ~torch.eye(len(prompt), dtype=torch.bool)
    return float(apart[same & other].mean() / apart[~same].mean())


def _reach(features: Features, num_nearest: int) -> Float[Tensor, " _"]:
    return torch.cdist(features, features).kthvalue(num_nearest + 1).values  # each is its own nearest


def _kernel(x: Features, y: Features) -> Float[Tensor, "_ _"]:
    return (x @ y.T / x.shape[1] + 1) ** 3


def _checked(samples: Features, reference: Features) -> tuple[Features, Features]:
    """Both in double precision: in single precision covariances of many features are off by more than distances are."""
    for name, features in (("samples", samples), ("reference", reference)):
        if len(features) < 2:
            raise ValueError(f"{name} holds {len(features)} pictures, but a spread needs at least 2")
        if not features.isfinite().all():
            raise ValueError(f"features of {name} are not finite: look at the pictures and at what made the features")
    if samples.shape != reference.shape:
        raise ValueError(
            f"samples are {tuple(samples.shape)} and reference {tuple(reference.shape)} (pictures, features): "
            "distances depend on the size of the sets, so give both as many, with features of one kind"
        )
    return samples.double(), reference.double()
