"""The study: its plan, its cells, its statistics and its report, without training."""

import itertools
import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from runtime.config import load_config, to_dict
from study import contests
from study.cells import Cell
from study.contests import Study
from study.figures import conclude
from study.plan import Plan, digest
from study.statistics import Interval, front, of_means, of_share, student

ROOT = Path(__file__).parent.parent


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    plan = load_config(Plan, ROOT / "configs/study/smoke.yaml")
    return replace(plan, out=str(tmp_path / "study"), tokenizer=str(ROOT / plan.tokenizer))


# Student's t, two-sided, as in any table of it
@pytest.mark.parametrize(
    ("freedom", "confidence", "value"),
    [(1, 0.95, 12.706), (2, 0.95, 4.303), (2, 0.975, 6.205), (4, 0.99, 4.604), (30, 0.95, 2.042)],
)
def test_students_distribution_is_that_of_the_tables(freedom, confidence, value):
    assert student(freedom, confidence) == pytest.approx(value, abs=6e-4)


def test_intervals_of_means_hold_the_true_one_as_often_as_they_say():
    rng = np.random.default_rng(0)
    held = [of_means(list(rng.normal(5, 2, 3)), 0.9) for _ in range(2000)]
    assert np.mean([low <= 5 <= high for _, low, high in held]) == pytest.approx(0.9, abs=0.02)


def test_intervals_of_means_stay_within_what_can_be():
    free, held = of_means([0.9, 0.97, 1.0], 0.95), of_means([0.9, 0.97, 1.0], 0.95, (0.0, 1.0))
    assert free.high > 1 and held == Interval(free.value, free.low, 1)
    assert of_means([0.0, 0.01, 0.1], 0.95, (0.0, 1.0)).low == 0


def test_one_training_says_nothing_of_the_spread():
    assert of_means([3.0], 0.95) == Interval(3.0, -math.inf, math.inf)
    with pytest.raises(ValueError, match="no values"):
        of_means([], 0.95)


def test_intervals_of_shares_are_wilsons():
    # Newcombe, "Two-sided confidence intervals for the single proportion", table I, method 3
    assert of_share(81, 263, 0.95)[1:] == pytest.approx((0.2553, 0.3662), abs=1e-4)
    assert of_share(0, 20, 0.95)[1:] == pytest.approx((0.0, 0.1611), abs=1e-4)
    with pytest.raises(ValueError, match="5 successes among 4"):
        of_share(5, 4, 0.95)


def test_the_front_is_what_nothing_surpasses():
    assert front([(1.0, 0.5), (2.0, 0.4), (2.0, 0.7), (3.0, 0.7), (4.0, 0.9)]) == [0, 2, 4]
    assert front([(1.0, 0.5), (1.0, 0.6)]) == [1]


def test_the_plans_name_changes_with_the_plan_and_not_with_its_folder(plan):
    name = digest(plan, "codes")
    assert digest(replace(plan, out="elsewhere"), "codes") == name
    assert digest(replace(plan, num_repeated=11), "codes") != name
    assert digest(plan, "other codes") != name
    assert digest(replace(plan, contests=(replace(plan.contests[0], num_steps=7),)), "codes") != name


@pytest.mark.parametrize("name", sorted(path.name for path in (ROOT / "configs/study").glob("*.yaml")))
def test_the_plans_that_ship_are_plans(name):
    assert load_config(Plan, ROOT / "configs/study" / name)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda plan: {"diffusion": plan.diffusion[:1]}, "2 settings are tried for autoregression and 1 for diffusion"),
        (lambda plan: {"contests": (replace(plan.contests[0], seeds=(0, 1)),)}, "at least 3 seeds"),
        (lambda plan: {"contests": plan.contests * 2}, "share the name 'tiny'"),
        (lambda plan: {"validation": plan.tests[0]}, "chosen on 'test', which is also a test"),
        (lambda plan: {"tests": plan.tests[:1] * 2}, "two tests are of one split"),
        (lambda plan: {"confidence": 1.0}, "confidence is 1.0"),
        (lambda plan: {"tests": ()}, "at least one test"),
    ],
)
def test_unfair_plans_are_refused(plan, change: Callable, message):
    with pytest.raises(ValueError, match=message):
        replace(plan, **change(plan))


def test_both_are_trained_alike(plan):
    from study.contenders import CONTENDERS

    left, right = (to_dict(contender.training(plan, plan.contests[0], 1, Path("out"))) for contender in CONTENDERS)
    shared = set(left) & set(right) - {"recipe"}
    assert {"loop", "data", "validation", "tokenizer", "network", "caption_dropout", "num_text"} <= shared
    assert all(left[name] == right[name] for name in shared)


def test_a_folder_of_another_plan_is_refused(plan):
    Study(plan)
    Study(plan)
    with pytest.raises(ValueError, match="holds cells of another plan: give this one another folder"):
        Study(replace(plan, num_repeated=11))


def test_a_test_too_small_to_draw_is_refused(plan):
    with pytest.raises(ValueError, match="fewer than 100 examples"):
        Study(replace(plan, tests=(replace(plan.tests[0], num_examples=40),)))


def test_contests_may_wait_but_not_the_first(plan):
    further = replace(plan.contests[0], name="further", seeds=(0,))
    plan = replace(plan, contests=(plan.contests[0], further))
    whole, part = Study(plan), Study(plan, ["tiny"])
    assert {cell.name for cell in part.cells} < {cell.name for cell in whole.cells}
    assert not any("further" in cell.name for cell in part.cells) and part.digest == whole.digest
    for wrong in (["further"], ["tiny", "other"]):
        with pytest.raises(ValueError, match="contests are tiny, further: name tiny"):
            Study(plan, wrong)


def in_little(study: Study, monkeypatch, run: Callable) -> list[str]:
    """Gives the study three cells that depend on each other; returns what was run, in order."""
    order: list[str] = []

    def cell(name: str, *after: str) -> Cell:
        def lines():
            order.append(name)
            yield {"number": 1}
            run(name)
            yield {"number": 2}

        return Cell(name, after, lines)

    monkeypatch.setattr(study, "cells", [cell("last", "first", "second"), cell("first"), cell("second", "first")])
    return order


def test_a_killed_study_goes_on_and_counts_no_cell_half(plan, monkeypatch):
    study = Study(plan)

    def killed(name: str) -> None:
        if name == "second":
            raise KeyboardInterrupt

    order = in_little(study, monkeypatch, killed)
    with pytest.raises(KeyboardInterrupt):
        study.run()
    assert order == ["first", "second"] and study.done("first") and not study.done("second")
    again = Study(plan)
    order = in_little(again, monkeypatch, lambda name: None)
    again.run()
    assert order == ["second", "last"]
    first, lines = again.read("last")
    assert first["plan"] == again.digest and lines == [{"number": 1}, {"number": 2}]
    again.run()
    assert order == ["second", "last"]


def test_a_cell_is_done_by_one_process_only(plan, monkeypatch):
    study, other = Study(plan), Study(plan)
    in_little(study, monkeypatch, lambda name: None)
    with other._claim("first") as mine:
        assert mine
        with study._claim("first") as too:
            assert not too
    with study._claim("first") as mine:
        assert mine


def test_a_cell_of_another_plan_is_refused(plan, monkeypatch):
    study = Study(plan)
    in_little(study, monkeypatch, lambda name: None)
    study.run()
    path = study.path("first")
    path.write_text(path.read_text().replace(study.digest, "0" * 16))
    with pytest.raises(ValueError, match="is of another plan: remove it"):
        study.read("first")


def test_copies_are_looked_for_in_what_a_contest_has_learned_from(plan, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # the cache of codes is made there
    many, few = (
        replace(plan.contests[0], name=f"of{count}", data=replace(plan.contests[0].data, num_examples=count))
        for count in (60, 20)
    )
    study = Study(replace(plan, contests=(many, few)))
    known, less = (contests._codes_of_training(study, contest) for contest in study.contests)
    assert less < known and len(less) <= 20


def found(adherence: tuple, frechet: tuple) -> dict:
    def row(contender: str, way: str, batch_size: int, median: float, flops: float, passes: int) -> dict:
        return dict(contender=contender, way=way, batch_size=batch_size, median=median, flops=flops, passes=passes)

    cost = [row("autoregression", "sequential", size, 1.0 * size, 10.0, 128) for size in (1, 8)]
    cost += [row("autoregression", "jacobi", 1, 0.5, 30.0, 40), row("autoregression", "jacobi", 8, 9.0, 30.0, 40)]
    cost += [row("diffusion", "best", size, 2.0 + size, 400.0, 98) for size in (1, 8)]
    differences = {"confidence": 0.975, "adherence": adherence, "frechet": frechet}
    return {"verdict": "adherence", "differences": differences, "elsewhere": {}, "cost": cost}


def test_the_conclusion_says_what_the_intervals_say():
    none, better, price, alone, many = conclude(found((0.02, -0.01, 0.05), (0.4, 0.1, 0.7)))
    assert none.startswith("Adherence: no difference shown") and "-1 to +5" in none
    assert better.startswith("Diffusion has the better Frechet distance")
    assert "40.0 times the operations" in price and "98 forward passes in place of 128" in price
    assert "6.00 times as long as autoregression, decoded by way of jacobi" in alone
    assert many.startswith("8 at once take diffusion 1.25 times as long")
    first, second, *_ = conclude(found((0.02, 0.01, 0.03), (-0.4, -0.7, -0.1)))
    assert first.startswith("Autoregression has the better adherence")
    assert second.startswith("Autoregression has the better Frechet distance")


def test_the_conclusion_says_what_holds_at_other_scales():
    known, unknown = (-0.02, -0.03, -0.01), (0.4, -math.inf, math.inf)
    differences = {"confidence": 0.95, "adherence": known, "frechet": unknown}
    *_, first, second = conclude(found(known, known) | {"elsewhere": {"little-data": differences}})
    assert first.startswith("Diffusion has the better adherence in little-data (")
    assert "-2 points, 95.0% interval -3 to -1" in first
    assert second.startswith("Frechet distance in little-data: one training each shows no difference (")


def test_the_report_shows_every_contest():
    from study import report

    def quality(contest: str, contender: str, test: str) -> dict:
        spread = (math.inf, 0.1)[contest == "main"]
        interval = [0.5, 0.5 - spread, 0.5 + spread]
        row = dict(contest=contest, contender=contender, test=test, way="best", seeds=[{"copied": 0.25}])
        return row | {"adherence": interval, "distances": {"features": {"frechet": interval}}}

    names, contenders, tests = ("main", "little-data"), ("autoregression", "diffusion"), ("test", "pair")
    shown = {
        "plan": {"contests": [{"name": name, "num_steps": 30} for name in names], "loop": {"batch_size": 4}},
        "num_examples": {"main": 120, "little-data": 12},
        "match": {name: [{"contender": one, "total": 1000} for one in contenders] for name in names},
        "quality": [quality(*one) for one in itertools.product(names, contenders, tests)],
        "verdict": "adherence",
        "extractors": ["features"],
        "truth": {"test": {}, "pair": {}},
        "elsewhere": {"little-data": {}},
    }
    rows = report._scales(shown).rows
    assert [row[:5] for row in rows[::2]] == [
        ["main", "1,000", "30", "1.00", "autoregression"],
        ["little-data", "1,000", "30", "10.00", "autoregression"],
    ]
    assert rows[1][5:] == ["50.0% (40.0% to 60.0%)"] * 2 + ["0.500 (0.400 to 0.600)", "25.0%"]
    assert rows[3][5:] == ["50.0%", "50.0%", "0.500", "25.0%"]
    assert b"little-data" in report._by_scale(shown).content


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_smoke_study_ends_in_a_report_whose_numbers_follow_from_its_lines(plan):
    from study.report import write

    study = Study(plan)
    study.run()
    write(study)
    report = json.loads((study.folder / "report.json").read_text())
    page = (study.folder / "report.html").read_text()
    assert "<svg" in page and "data:image/png" in page and "http" not in page.replace("http://www.w3.org", "")
    for row in report["quality"]:
        for one in row["seeds"]:
            name = ".".join([row["contest"], row["contender"], str(one["seed"]), row["test"], row["way"]])
            lines = [json.loads(line) for line in study.path(f"draw.{name}").read_text().splitlines()[1:]]
            assert one["adherence"] == np.mean([line["ok"] for line in lines])
    before = {path: path.stat().st_mtime_ns for path in (study.folder / "cells").iterdir()}
    Study(plan).run()
    assert before == {path: path.stat().st_mtime_ns for path in (study.folder / "cells").iterdir()}
    assert contests.TOLERANCE == 0.02
    for lines in report["match"].values():
        for name in ("total", "flops"):
            assert max(line[name] for line in lines) <= 1.02 * min(line[name] for line in lines)
