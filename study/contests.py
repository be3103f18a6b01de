"""The contests of a study, cell by cell.

Each contest's cells, and what each needs:

    train, of every seed --> tune, with the first --> draw, of every seed, test and way --> study.figures
                                                  --> match, cost
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from data.codes import encode_source
from data.pictures import to_images, to_pixels
from data.sources import SourceConfig, open_source
from metrics.classifier import Classifier, label_of
from metrics.cost import peak_bytes, timings
from metrics.distances import frechet_distance
from metrics.extractors import Extractor, RandomConvolutions, features_of
from runtime.config import to_dict
from runtime.device import resolve_device
from runtime.loop import train
from study.cells import Cell, Cells, Lines
from study.contenders import CONTENDERS, Contender
from study.plan import Contest, Plan, name_of
from tokenizer.image import ImageTokenizer

# how far the contenders may be apart in what was to be equal
TOLERANCE = 0.02
# seeds of what is drawn to choose settings, and of what is judged
_TUNING_SEED, _SEED = 1, 0


class Study(Cells):
    """A plan with its folder, and the judges that it names.

    Args:
        plan: What is to be done.
        only: Names of contests; the others wait. The first can't.

    Raises:
        ValueError: The folder holds another plan, a name is of no contest, or the plan's sources don't suit it.
        FileNotFoundError: There is no such image tokenizer.
    """

    def __init__(self, plan: Plan, only: Sequence[str] | None = None) -> None:
        self.plan = plan
        names = [contest.name for contest in plan.contests]
        if only is not None and (names[0] not in only or set(only) - set(names)):
            raise ValueError(f"contests are {', '.join(names)}: name {names[0]}, and others of them")
        self.contests = [contest for contest in plan.contests if only is None or contest.name in only]
        self.device = resolve_device("auto")
        self.tokenizer = ImageTokenizer.from_pretrained(Path(plan.tokenizer)).to(self.device)
        self.classifier = None
        if plan.classifier is not None:
            self.classifier = Classifier.from_pretrained(Path(plan.classifier)).to(self.device)
        for config in (plan.validation, *plan.tests):
            source = open_source(config)
            if len(source) < 100:
                raise ValueError(f"{name_of(config)!r} has fewer than 100 examples, too few to judge by: take more")
            if not hasattr(source, "verdict") and self.classifier is None:
                raise ValueError(f"nothing can judge pictures of {name_of(config)!r}: name a `classifier` in the plan")
        super().__init__(plan, self.tokenizer.digest)

    @cached_property
    def extractors(self) -> tuple[Extractor, ...]:
        """What makes features; the last is the one that the study is about."""
        untrained: Extractor = RandomConvolutions()
        return (untrained,) if self.classifier is None else (untrained, self.classifier)

    @cached_property
    def cells(self) -> list[Cell]:
        """All of them, in an order in which they can be done."""
        plan = self.plan
        cells = [Cell(f"truth.{name_of(test)}", (), partial(self._truth, test)) for test in plan.tests]
        for contest in self.contests:
            first = tuple(self._training(contest, contender, contest.seeds[0]) for contender in CONTENDERS)
            # What was to be equal is looked at as soon as it can be.
            cells += [*first, Cell(f"match.{contest.name}", _names(first), partial(self._match, contest))]
            tunings = []
            for contender, trained in zip(CONTENDERS, first, strict=True):
                tune = partial(self._tune, contest, contender)
                tunings.append(Cell(f"tune.{contest.name}.{contender.name}", (trained.name,), tune))
                cells.append(tunings[-1])
                for seed in contest.seeds:
                    training = self._training(contest, contender, seed)
                    cells += [training] * (seed != contest.seeds[0])
                    for test, way in self.drawn(contest, contender, seed):
                        run = partial(self._draw, contest, contender, seed, test, way)
                        name = self.drawing(contest, contender, seed, test, way)
                        cells.append(Cell(name, (training.name, tunings[-1].name), run))
            if contest is plan.contests[0]:
                cells.append(Cell("cost", _names(tunings), self._cost))
        return cells

    def _training(self, contest: Contest, contender: Contender, seed: int) -> Cell:
        name = f"train.{contest.name}.{contender.name}.{seed}"
        return Cell(name, (), partial(self._train, contest, contender, seed))

    def drawing(self, contest: Contest, contender: Contender, seed: int, test: SourceConfig, way: str) -> str:
        """The name of the cell of one model's pictures."""
        return f"draw.{contest.name}.{contender.name}.{seed}.{name_of(test)}.{way}"

    def drawn(self, contest: Contest, contender: Contender, seed: int) -> Iterator[tuple[SourceConfig, str]]:
        """What is drawn by one model: every test in the way chosen; by the first contest's also several pictures of a
        prompt, and by the first of those all other ways."""
        for test in self.plan.tests:
            yield test, "best"
        if contest is self.plan.contests[0]:
            yield self.plan.tests[0], "repeated"
            if seed == contest.seeds[0]:
                for way in contender.ways(self.plan, contender.tried(self.plan)[0]):
                    if way != "best":
                        yield self.plan.tests[0], way

    def prompts(self, test: SourceConfig) -> list[str]:
        """The captions of the first half of a test."""
        source = open_source(test)
        return [source[index].captions[0] for index in range(len(source) // 2)]

    def chosen(self, contest: Contest, contender: Contender) -> Any:
        """The settings that were best where settings are chosen; of equal ones the first."""
        _, lines = self.read(f"tune.{contest.name}.{contender.name}")
        settings = contender.tried(self.plan)
        return settings[max(range(len(settings)), key=lambda place: (lines[place]["score"], -place))]

    def model(self, contest: Contest, contender: Contender, seed: int) -> Any:
        """A trained model."""
        return _load(contender, self._run_folder(contest, contender, seed) / "checkpoint")

    def _run_folder(self, contest: Contest, contender: Contender, seed: int) -> Path:
        return self.folder / "runs" / f"{contest.name}-{contender.name}-{seed}"

    def _truth(self, test: SourceConfig) -> Lines:
        """Of every example of a test its codes, whether training had a picture of the same, and whether its own
        picture is right once it has been through the image tokenizer."""
        source = open_source(test)
        known = _codes_of_training(self, self.plan.contests[0])
        for start in range(0, len(source), 64):
            places = range(start, min(start + 64, len(source)))
            images = np.stack([source[place].image for place in places])
            codes = self.tokenizer.encode(to_images(images).to(self.device))
            for place, grid, pixels in zip(places, codes.cpu().numpy(), self.paint(codes), strict=True):
                yield {
                    "index": place,
                    "caption": source[place].captions[0],
                    "codes": grid.tolist(),
                    "copied": grid.astype(np.uint16).tobytes() in known,
                    **self.verdict(source, place, pixels),
                }

    def paint(self, codes: torch.Tensor) -> np.ndarray:
        """Pixels, uint8 (n, H, W, 3), of codes (n, h, w)."""
        parts = codes.to(self.device).split(64)
        return np.concatenate([to_pixels(self.tokenizer.decode(part)) for part in parts])

    def _train(self, contest: Contest, contender: Contender, seed: int) -> Lines:
        """The way of the losses. Stopped at any moment, the training goes on where it was."""
        folder = self._run_folder(contest, contender, seed)
        train(contender.training(self.plan, contest, seed, folder))
        for line in (folder / "metrics.jsonl").read_text().splitlines():
            yield json.loads(line)

    def _tune(self, contest: Contest, contender: Contender) -> Lines:
        """A line for every setting, with the verdicts on its pictures. The first seed's model is asked."""
        source = open_source(self.plan.validation)
        model = self.model(contest, contender, contest.seeds[0])
        prompts = [source[index].captions[0] for index in range(len(source))]
        size = _size(source)
        for settings in contender.tried(self.plan):
            result = contender.draw(model, prompts, settings, seed=_TUNING_SEED, first=range(len(prompts)), size=size)
            pixels = np.stack([np.asarray(image) for image in result.images])
            right = [self.verdict(source, place, picture)["ok"] for place, picture in enumerate(pixels)]
            found = {"settings": to_dict(settings), "score": float(np.mean(right)), "ok": right}
            if self.plan.tuned_by == "frechet":
                true = np.stack([source[index].image for index in range(len(source))])
                main = self.extractors[-1]
                found["score"] = -frechet_distance(features_of(main, pixels), features_of(main, true))
            yield found

    def _draw(self, contest: Contest, contender: Contender, seed: int, test: SourceConfig, way: str) -> Lines:
        """A line for every picture: what it was drawn of, its codes, and the verdict on it."""
        source, prompts = open_source(test), self.prompts(test)
        model, chosen = self.model(contest, contender, seed), self.chosen(contest, contender)
        count = 1
        if way == "repeated":
            prompts, count = prompts[: self.plan.num_repeated], self.plan.num_images
            settings = chosen
        else:
            settings = contender.ways(self.plan, chosen)[way]
            best = self.drawing(contest, contender, seed, test, "best")
            if settings == chosen and self.done(best):  # a variation that varies nothing
                yield from self.read(best)[1]
                return
        each = {"num_images": count, "first": range(0, count * len(prompts), count)}  # noise of its own
        result = contender.draw(model, prompts, settings, seed=_SEED, size=_size(source), **each)
        known = _codes_of_training(self, contest)
        for number, (image, codes) in enumerate(zip(result.images, result.codes, strict=True)):
            yield {
                "index": number // count,
                "sample": number % count,
                "codes": codes.tolist(),
                "copied": codes.astype(np.uint16).tobytes() in known,
                **self.verdict(source, number // count, np.asarray(image)),
            }

    def _match(self, contest: Contest) -> Lines:
        """A line for each contender: its parameters, and operations of a training step, which have to be equal."""
        prompts = self.prompts(self.plan.tests[0])
        lines = []
        for contender in CONTENDERS:
            size = contender.size(self.model(contest, contender, contest.seeds[0]), prompts)
            lines.append({"contender": contender.name, "total": sum(size["parameters"].values()), **size})
        for name in ("total", "flops"):
            least, most = sorted(line[name] for line in lines)
            if most > (1 + TOLERANCE) * least:
                raise ValueError(
                    f"the contenders of {contest.name!r} differ by {most / least - 1:.1%} in {name}, more than "
                    f"{TOLERANCE:.0%}: take a larger network"
                )
        return lines

    def _cost(self) -> Lines:
        """A line for every way to draw and number of pictures at once: operations, passes and times."""
        plan, contest = self.plan, self.plan.contests[0]
        prompts, size = self.prompts(plan.tests[0]), _size(open_source(plan.tests[0]))
        for batch in plan.batch_sizes:
            some = (prompts * (batch // len(prompts) + 1))[:batch]
            runs, lines = {}, {}
            for contender in CONTENDERS:
                model = self.model(contest, contender, contest.seeds[0])
                for name, (settings, how) in contender.timed(plan, self.chosen(contest, contender)).items():
                    runs[contender.name, name] = partial(
                        contender.draw, model, some, settings, seed=_SEED, size=size, batch_size=batch, **how
                    )
                    lines[contender.name, name] = {
                        "contender": contender.name,
                        "way": name,
                        "batch_size": batch,
                        **contender.price(model, settings, some, seed=_SEED, size=size, batch_size=batch, **how),
                    }
            taken = timings(runs, plan.num_timings, self.device, seconds=plan.seconds_of_timing)
            for key, line in lines.items():
                peak = peak_bytes(runs[key], self.device)
                yield line | {"seconds": taken[key], "peak_bytes": peak}

    def verdict(self, source: Any, index: int, pixels: np.ndarray) -> dict[str, Any]:
        """Whether a picture shows what an example's caption says: each fact of it where that can be checked exactly,
        its class where a classifier has to tell."""
        if hasattr(source, "verdict"):
            verdict = source.verdict(index, pixels)
            return {"ok": bool(verdict.ok), "facts": {name: bool(value) for name, value in verdict.facts.items()}}
        assert self.classifier is not None
        (said,) = self.classifier.classify(pixels[None])
        return {"ok": said == label_of(source[index]), "facts": {}}


def _names(cells: Iterable[Cell]) -> tuple[str, ...]:
    return tuple(cell.name for cell in cells)


@lru_cache(maxsize=2)
def _load(contender: Contender, folder: Path) -> Any:
    return contender.load(folder)


@lru_cache(maxsize=2)
def _codes_of_training(study: Study, contest: Contest) -> set[bytes]:
    """The codes of every picture that a contest's models have learned from."""
    source, workers = open_source(contest.data), study.plan.loop.num_workers
    encoded = encode_source(source, study.tokenizer, study.device, num_workers=workers)
    codes: Any = encoded.with_format("numpy")["codes"]
    return {np.asarray(grid).astype(np.uint16).tobytes() for grid in codes}


def _size(source: Any) -> tuple[int, int]:
    height, width, _ = source[0].image.shape
    return height, width
