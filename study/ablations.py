"""Changes one thing of a training at a time and judges what comes of it, exactly, on captioned shapes.

    python -m study.ablations configs/ablations/drawing.yaml

Started again, it goes on with what is not done; started several times at once, the work is shared. The figures go to
docs/results/ablations-<name of the config>.json.
"""

import argparse
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from data.shapes.source import ShapesConfig
from data.sources import open_source
from metrics.abilities import JUDGES, Cases
from metrics.adherence import measure
from metrics.record import RESULTS, record
from model.objective import ModelTraining
from model.plantain import Plantain
from model.sampling import SamplingConfig
from runtime.config import load_config, to_dict
from runtime.loop import train
from study.cells import Cell, Cells, Lines
from study.contenders import Autoregression
from study.statistics import of_means
from tokenizer.image import ImageTokenizer

# drawing is judged by metrics.adherence, the others by metrics.abilities; each if the row's mixture teaches it
_SHARES = {"draw": "text_to_image"}
# of what is drawn to be judged
_SEED = 0


@dataclass(frozen=True)
class Row:
    """A training that differs in what it says, and how its model is asked to draw."""

    # in words
    name: str
    # as on the command line of train.py: "network.positions=line"
    changes: tuple[str, ...] = ()

    @property
    def trained(self) -> tuple[str, ...]:
        """The changes that training sees. Rows that have them in common share its models."""
        return tuple(change for change in self.changes if not change.startswith("recipe."))


@dataclass(frozen=True)
class Ablations:
    """Trainings that are compared with the first of them."""

    # folder of everything that it writes; starting it again resumes from there
    out: str
    # in words
    question: str
    # what the rows change
    training: ModelTraining
    # the first changes nothing
    rows: tuple[Row, ...]
    # seeds of training, for each row
    seeds: tuple[int, ...] = (0, 1, 2)
    # what is judged, where the row's mixture teaches it
    abilities: tuple[str, ...] = ("draw",)
    # splits of data.shapes on which it is
    splits: tuple[str, ...] = ("test",)
    # cases of each ability and split
    num_cases: int = 500

    def __post_init__(self) -> None:
        if not self.rows or self.rows[0].changes:
            raise ValueError("the first of `rows` is what the others are compared with: it may change nothing")
        if len({_slug(row.name) for row in self.rows}) < len(self.rows):
            raise ValueError("two rows have one name: give each its own")
        if unknown := set(self.abilities) - {"draw", *JUDGES}:
            raise ValueError(f"nothing judges {', '.join(sorted(unknown))}: abilities are draw, {', '.join(JUDGES)}")
        if "edit" in self.abilities and "relation" in self.splits:
            raise ValueError("no edit states a relation: judge edits on other splits than 'relation'")


class Trainings(Cells):
    """The rows of a plan, each trained with each seed and judged.

    Raises:
        ValueError: The folder holds another plan's cells, or a row's changes make no training.
    """

    def __init__(self, plan: Ablations) -> None:
        self.plan = plan
        super().__init__(plan, ImageTokenizer.from_pretrained(Path(plan.training.tokenizer)).digest)
        for row in plan.rows:
            if not isinstance(self.training(row, 0).data, ShapesConfig):
                raise ValueError(f"{row.name!r} does not train on captioned shapes, and nothing else is judged exactly")

    @property
    def cells(self) -> Sequence[Cell]:
        cells: dict[str, Cell] = {}
        for seed in self.plan.seeds:
            for row in self.plan.rows:
                trained = f"train.{self._trained(row)}.{seed}"
                judged = f"judge.{_slug(row.name)}.{seed}"
                cells.setdefault(trained, Cell(trained, (), partial(self._train, row, seed)))
                cells[judged] = Cell(judged, (trained,), partial(self._judge, row, seed))
        return list(cells.values())

    def training(self, row: Row, seed: int) -> ModelTraining:
        """What a row trains."""
        changes = [f"training.{change}" for change in row.changes]
        training = load_config(Ablations, self.folder / "plan.yaml", changes).training
        out = self.folder / "runs" / f"{self._trained(row)}-{seed}"
        return replace(training, loop=replace(training.loop, out=str(out), seed=seed))

    def _trained(self, row: Row) -> str:
        """The name of a row's models: that of the first row that has them."""
        return next(_slug(other.name) for other in self.plan.rows if other.trained == row.trained)

    def _train(self, row: Row, seed: int) -> Lines:
        """Stopped at any moment, the training goes on where it was."""
        training = replace(self.training(row, seed), recipe=self.plan.training.recipe)
        train(training)
        loop, source = training.loop, open_source(training.validation)
        size = Autoregression().size(
            Plantain.from_pretrained(Path(loop.out) / "checkpoint"),
            [source[index].captions[0] for index in range(min(len(source), 100))],
        )
        drawn = 3 * size["flops"] * loop.batch_size * loop.num_steps
        yield {"steps": loop.num_steps, "parameters": sum(size["parameters"].values()), "flops_if_drawing": drawn}

    def _judge(self, row: Row, seed: int) -> Lines:
        training = self.training(row, seed)
        model = Plantain.from_pretrained(Path(training.loop.out) / "checkpoint")
        settings = _differences(training.recipe, self.plan.training.recipe)
        assert isinstance(training.data, ShapesConfig)
        for split in self.plan.splits:
            for ability in self.plan.abilities:
                if not getattr(training.mixture, _SHARES.get(ability, ability)):
                    continue
                if ability == "draw":
                    found = measure(model, split, self.plan.num_cases, training.data.world, _SEED, settings)
                    found = {"right": found.pop("adherence"), **found}
                else:
                    cases = Cases(model, split, self.plan.num_cases, training.data.world)
                    found = JUDGES[ability](model, cases, _SEED, settings)
                yield {"split": split, "ability": ability, "figures": found}

    def figures(self) -> Iterator[dict[str, Any]]:
        """Of each row its changes, what was trained, and the share of right cases, by split and ability: the mean over
        seeds with its interval, the mean difference to the first row with its own, and the shares themselves."""
        first: dict[tuple[str, str], list[float]] = {}
        for row in self.plan.rows:
            shares: dict[tuple[str, str], list[float]] = {}
            for seed in self.plan.seeds:
                for line in self.read(f"judge.{_slug(row.name)}.{seed}")[1]:
                    shares.setdefault((line["split"], line["ability"]), []).append(line["figures"]["right"])
            first = first or shares
            judged = []
            for (split, ability), values in shares.items():
                base = first[split, ability]
                gains = [value - other for value, other in zip(values, base, strict=True)]
                right, gain = _interval(values, 0.0), _interval(gains, -1.0)
                judged.append({"split": split, "ability": ability, "right": right, "gain": gain, "seeds": values})
            (trained,) = self.read(f"train.{self._trained(row)}.{self.plan.seeds[0]}")[1]
            yield {"name": row.name, "changes": list(row.changes), **trained, "judged": judged}


def _interval(values: Sequence[float], least: float) -> list[float]:
    """Mean, and with several trainings between what the true one lies; one says nothing of the spread."""
    return list(of_means(values, 0.95, (least, 1.0)))[: 3 if len(values) > 1 else 1]


def _differences(one: SamplingConfig, other: SamplingConfig) -> dict[str, Any]:
    before = asdict(other)
    return {name: value for name, value in asdict(one).items() if value != before[name]}


def _slug(name: str) -> str:
    return re.sub(r"[^\w]+", "-", name).strip("-")


def main() -> None:
    """Does all cells that are missing, then writes the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("plan", type=Path, help="YAML file, such as one of configs/ablations/")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings that win over the file's")
    arguments, more = parser.parse_known_args()
    try:
        trainings = Trainings(load_config(Ablations, arguments.plan, [*arguments.overrides, *more]))
        trainings.run()
    except (ValueError, OSError) as error:
        parser.exit(2, f"ablations: {error}\n")
    seconds = sum(trainings.read(cell.name)[0]["seconds"] for cell in trainings.cells)
    out = RESULTS / f"ablations-{arguments.plan.stem}.json"
    record(out, {"rows": list(trainings.figures())}, trainings.plan.seeds[0], to_dict(trainings.plan), seconds)
    print(f"wrote {out}")


if __name__ == "__main__":
    main()
