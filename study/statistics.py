"""What figures of a few trainings, and verdicts on many pictures, say of the true values."""

from collections.abc import Sequence
from statistics import NormalDist, mean, stdev
from typing import NamedTuple

import numpy as np


class Interval(NamedTuple):
    """A value, and between what the true one lies with the confidence asked for."""

    value: float
    low: float
    high: float


def of_means(values: Sequence[float], confidence: float, within: tuple[float, float] = (-np.inf, np.inf)) -> Interval:
    """The mean of what a few trainings gave, by Student's distribution. A single one says nothing of the spread.

    Args:
        values: One of each training.
        confidence: With which the true mean lies in the interval.
        within: Between what it can lie at all.

    Raises:
        ValueError: There are no values.
    """
    if not values:
        raise ValueError("there are no values to take a mean of")
    middle = mean(values)
    if len(values) == 1:
        return Interval(middle, -np.inf, np.inf)
    reach = student(len(values) - 1, confidence) * stdev(values) / len(values) ** 0.5
    return Interval(middle, max(within[0], middle - reach), min(within[1], middle + reach))


def of_share(successes: int, count: int, confidence: float) -> Interval:
    """The share of successes among independent trials.

    Source: Wilson, "Probable Inference, the Law of Succession, and Statistical Inference".
    """
    if not 0 <= successes <= count or not count:
        raise ValueError(f"{successes} successes among {count} trials")
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    share = successes / count
    middle = (share + z**2 / (2 * count)) / (1 + z**2 / count)
    reach = z / (1 + z**2 / count) * (share * (1 - share) / count + z**2 / (4 * count**2)) ** 0.5
    return Interval(share, max(0.0, middle - reach), min(1.0, middle + reach))


def student(freedom: int, confidence: float) -> float:
    """Between plus and minus this value a variable of Student's distribution lies, with this probability.

    The density is summed up over angles, x = sqrt(freedom) tan(angle), where it is a power of the cosine.
    """
    angles = np.linspace(0, np.pi / 2, 200_001)
    density = np.cos(angles) ** (freedom - 1)
    cumulated = np.concatenate([[0], np.cumsum((density[1:] + density[:-1]) / 2)])
    angle = np.interp(confidence, cumulated / cumulated[-1], angles)
    return float(freedom**0.5 * np.tan(angle))


def front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Of (price, quality), those for which nothing as cheap is better and nothing as good cheaper; by price."""
    order = sorted(range(len(points)), key=lambda place: (points[place][0], -points[place][1]))
    best, kept = -np.inf, []
    for place in order:
        if points[place][1] > best:
            best = points[place][1]
            kept.append(place)
    return kept
