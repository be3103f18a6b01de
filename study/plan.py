"""What is compared, on what and how: written down, and hashed, before anything is run."""

import hashlib
import json
import re
from collections import Counter
from dataclasses import MISSING, dataclass, field, fields, is_dataclass, replace
from typing import Any, Literal

from data.shapes.source import ShapesConfig
from data.sources import SourceConfig
from diffusion.flow import FlowSampling, Solver
from model.sampling import SamplingConfig
from model.transformer import ModelConfig
from runtime.loop import LoopConfig


@dataclass(frozen=True)
class Contest:
    """A size, a budget and an amount of data. Both contenders are trained at it, once for each seed."""

    # part of the names of its files
    name: str
    # what both are trained on
    data: SourceConfig
    # shape of the autoregressive model; the twin's follows from it
    network: ModelConfig
    # optimiser steps of a training
    num_steps: int
    # of the trainings
    seeds: tuple[int, ...] = (0, 1, 2)

    def __post_init__(self) -> None:
        if not self.name.replace("-", "").isalnum():
            raise ValueError(f"name is {self.name!r}, but may only have letters, digits and -")
        if len(set(self.seeds)) != len(self.seeds) or not self.seeds:
            raise ValueError(f"seeds are {self.seeds}, but each has to stand there once")


@dataclass(frozen=True)
class Steps:
    """One way to follow a flow: its passes are the twin's price."""

    num_steps: int
    solver: Solver = "heun"

    @property
    def name(self) -> str:
        return f"{self.solver}{self.num_steps}"


@dataclass(frozen=True)
class Plan:
    """A study. The first contest is the one that it is about; the others show how its result depends on its scale."""

    # folder of everything that it writes; starting it again resumes from there
    out: str
    # in words
    question: str
    # folder of the image tokenizer, or of a model that has one; both contenders keep it as it is
    tokenizer: str
    contests: tuple[Contest, ...]
    # where settings are chosen
    validation: SourceConfig
    # where the chosen settings are judged, the distribution of training first. The first half of each is drawn and
    # compared with; the second half says how far apart two sets of true pictures are
    tests: tuple[SourceConfig, ...]
    # of all trainings; their folder, steps and seed are their own
    loop: LoopConfig
    # settings that are tried for each contender, as many of one as of the other
    autoregression: tuple[SamplingConfig, ...]
    diffusion: tuple[FlowSampling, ...]
    # what decides among them: the share of pictures that are right, or the Frechet distance to the validation pictures
    tuned_by: Literal["adherence", "frechet"] = "adherence"
    # folder of a classifier (metrics.classifier), which judges pictures that no checker can
    classifier: str | None = None
    # further ways to follow the flow, with the settings chosen, to trade quality for passes
    sweep: tuple[Steps, ...] = (Steps(1, "euler"), Steps(2, "euler"), Steps(4), Steps(8), Steps(16), Steps(32))
    # pictures drawn of each of the first `num_repeated` prompts of the first test, to see how they differ
    num_images: int = 4
    num_repeated: int = 50
    # pictures at once whose time is taken
    batch_sizes: tuple[int, ...] = (1, 8, 32)
    # how often it is taken, after one that does not count
    num_timings: int = 20
    # seconds after which no further round of timings begins
    seconds_of_timing: float = 300.0
    # share of intervals that hold the true value, where differences are looked at one by one
    confidence: float = 0.95
    # share of pictures to draw without their caption in training
    caption_dropout: float = 0.1
    # what remains unmatched, in words, for the report
    unmatched: tuple[str, ...] = field(
        default=(
            "The codes were learned for an autoregressive model's sake; the twin draws the features before they are "
            "rounded, and its pictures are decoded by way of the nearest codes.",
            "Learning rates are those found for the autoregressive model.",
        )
    )

    @property
    def verdict(self) -> str:
        """What the share of right pictures is called: a classifier says less of a picture than a checker does."""
        return "adherence" if self.classifier is None else "class accuracy"

    def __post_init__(self) -> None:
        if not self.contests or len(self.contests[0].seeds) < 3:
            raise ValueError("the first contest needs at least 3 seeds: fewer say nothing of how much trainings differ")
        if double := [name for name, count in Counter(contest.name for contest in self.contests).items() if count > 1]:
            raise ValueError(f"contests share the name {double[0]!r}: give each its own")
        if len(self.autoregression) != len(self.diffusion) or not self.diffusion:
            raise ValueError(
                f"{len(self.autoregression)} settings are tried for autoregression and {len(self.diffusion)} for "
                "diffusion: try as many of each, at least one"
            )
        if not self.tests or not self.batch_sizes or min(self.batch_sizes) < 1:
            raise ValueError("a study needs at least one test and one batch size, of 1 or more")
        if not 0.5 <= self.confidence < 1:
            raise ValueError(f"confidence is {self.confidence}, but must lie between 0.5 and 1")
        if len({name_of(test) for test in self.tests}) < len(self.tests):
            raise ValueError("two tests are of one split: take different ones")
        if name_of(self.validation) in {name_of(test) for test in self.tests}:
            raise ValueError(f"settings are chosen on {name_of(self.validation)!r}, which is also a test: take another")


def name_of(source: SourceConfig) -> str:
    """How a test is called, in names of files too: by its split."""
    name = source.split if isinstance(source, ShapesConfig) or source.part == "all" else f"{source.split}-{source.part}"
    return re.sub(r"[^\w-]+", "_", name).strip("_")


def digest(plan: Any, tokenizer: str) -> str:
    """The name of a plan with an image tokenizer's digest: what is in every file that it led to.

    It is of what the plan says beyond defaults, and stays the same when further settings come into being.
    """
    whole = json.dumps([_said(replace(plan, out="")), tokenizer], sort_keys=True)
    return hashlib.sha256(whole.encode()).hexdigest()[:16]


def _said(config: Any) -> Any:
    """A config's values, but for those that it has by default."""
    if isinstance(config, tuple):
        return [_said(one) for one in config]
    if not is_dataclass(config):
        return config
    values = {one.name: getattr(config, one.name) for one in fields(config)}
    return {
        one.name: _said(values[one.name])
        for one in fields(config)
        if one.default is MISSING or values[one.name] != one.default
    }
