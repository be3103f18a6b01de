"""One thing changed at a time: rows share what training doesn't see, and their figures are those of their cells."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from metrics import tables
from runtime.config import load_config
from study.ablations import Ablations, Row, Trainings

ROOT = Path(__file__).parent.parent
TINY = [
    f"training.tokenizer={ROOT / 'checkpoints/shapes32'}",
    "training.network={dim: 16, depth: 1, num_heads: 1, num_kv_heads: 1, head_dim: 16, mlp_dim: 16, max_length: 128}",
    *(
        f"training.{part}.{setting}"
        for part in ("data", "validation")
        for setting in ("num_examples=8", "num_questions=1")
    ),
    *(f"training.loop.{setting}" for setting in ("num_steps=2", "batch_size=4", "precision=fp32", "compile=false")),
    "training.loop.num_workers=0",
    "num_cases=2",
]
ROWS = (
    Row("as it is"),
    Row("line", ("network.positions=line", "loop.num_steps=1")),
    Row("unguided", ("recipe.guidance=1",)),
    Row("reader", ("mixture={text_to_image: 0, ask: 1}",)),
)


@pytest.fixture
def plan(tmp_path: Path) -> Ablations:
    plan = load_config(Ablations, ROOT / "configs/ablations/drawing.yaml", [*TINY, f"out={tmp_path / 'out'}"])
    both = replace(plan.training, mixture=replace(plan.training.mixture, ask=1.0))
    return replace(plan, training=both, rows=ROWS, seeds=(0, 1), abilities=("draw", "ask"), splits=("pair",))


@pytest.mark.parametrize("path", sorted((ROOT / "configs/ablations").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_row_that_ships_is_a_training_that_differs(path: Path, tmp_path: Path):
    trainings = Trainings(load_config(Ablations, path, [f"out={tmp_path}"]))
    first, *others = trainings.plan.rows
    base = trainings.training(first, 0)
    for row in others:
        changed = trainings.training(row, 0)
        assert replace(changed, loop=replace(changed.loop, out=base.loop.out)) != base


def test_rows_are_trained_once_for_each_seed_and_judged_by_what_they_can(plan: Ablations):
    trainings = Trainings(plan)
    trainings.run()
    trained = [cell.name for cell in trainings.cells if cell.name.startswith("train.")]
    assert trained == [f"train.{name}.{seed}" for seed in (0, 1) for name in ("as-it-is", "line", "reader")]
    rows = {row["name"]: row for row in trainings.figures()}
    assert [row["steps"] for row in rows.values()] == [2, 1, 2, 2]
    assert rows["line"]["flops_if_drawing"] * 2 == rows["as it is"]["flops_if_drawing"]
    for name, abilities in {"as it is": ["draw", "ask"], "reader": ["ask"]}.items():
        assert [line["ability"] for line in rows[name]["judged"]] == abilities
    for line in rows["as it is"]["judged"]:
        assert len(line["seeds"]) == 2 and line["gain"] == [0.0, 0.0, 0.0]
    assert trainings.training(ROWS[2], 0).recipe.guidance == 1


def test_gains_are_differences_seed_by_seed(plan: Ablations, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    trainings = Trainings(replace(plan, rows=ROWS[:2], abilities=("draw",)))
    shares = {"as-it-is": [0.5, 0.7], "line": [0.6, 0.9]}

    def read(name: str):
        kind, row, seed = name.split(".")
        trained = {"steps": 2, "parameters": 3, "flops_if_drawing": 4}
        judged = {"split": "test", "ability": "draw", "figures": {"right": shares[row][int(seed)]}}
        return {}, [trained if kind == "train" else judged]

    monkeypatch.setattr(trainings, "read", read)
    rows = list(trainings.figures())
    (line,) = rows[1]["judged"]
    assert line["right"][0] == pytest.approx(0.75) and line["gain"][0] == pytest.approx(0.15)
    assert line["gain"][2] - line["gain"][0] == pytest.approx(12.706 * 0.05, rel=1e-3)  # Student's, one degree
    said = {"config": {"seeds": [0, 1], "num_cases": 2}, "commit": "c", "command": "python"}
    said["machine"] = {"cores": 2, "processor": "P", "accelerator": None}
    (tmp_path / "ablations-x.json").write_text(json.dumps({"figures": {"rows": rows}, **said}))
    monkeypatch.setattr(tables, "RESULTS", tmp_path)
    table = tables.ablations("x")
    assert "| line | `network.positions=line` `loop.num_steps=1` | 2 | 75.0% (-48.5 to +78.5) |" in table


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rows": ROWS[1:]}, "it may change nothing"),
        ({"rows": (*ROWS, Row("line"))}, "two rows have one name"),
        ({"abilities": ("draw", "sing")}, "nothing judges sing"),
        ({"abilities": ("draw", "edit"), "splits": ("test", "relation")}, "no edit states a relation"),
    ],
)
def test_plans_that_compare_nothing_are_refused(plan: Ablations, change: dict, message: str):
    with pytest.raises(ValueError, match=message):
        replace(plan, **change)


def test_a_change_of_nothing_that_there_is_is_refused(plan: Ablations):
    with pytest.raises(ValueError, match="command line.*netwrok"):
        Trainings(replace(plan, rows=(*ROWS, Row("wrong", ("netwrok.depth=2",)))))
