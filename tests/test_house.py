"""The plan of the house holds: what may import what, what things are called, and every config builds."""

import ast
import importlib.util
import sys
from itertools import pairwise
from pathlib import Path

import pytest
import yaml

from metrics.classifier import ClassifierTraining
from runtime.config import load_config
from study.ablations import Ablations
from study.plan import Plan
from train import load_runs

ROOT = Path(__file__).parent.parent
CORE = ("data", "tokenizer", "model", "tasks", "runtime", "diffusion")
LEAVES = {"study", "benchmarks", "importers", "server", "metrics"}
SOURCES = sorted(
    path
    for path in ROOT.rglob("*.py")
    if not any(part.startswith(".") or part in ("tests", "runs", "outputs") for part in path.relative_to(ROOT).parts)
)


def imports(path: Path) -> set[str]:
    """Top-level names of everything a file imports, wherever in it that stands."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute here"
            assert node.module is not None
            names.add(node.module.split(".")[0])
    return names


def is_core(path: Path) -> bool:
    return path.relative_to(ROOT).parts[0] in (*CORE, "train.py", "sample.py")


def test_there_is_something_to_look_at():
    assert {"train.py", "model/transformer.py", "data/shapes/scene.py"} <= {
        str(path.relative_to(ROOT)) for path in SOURCES if is_core(path)
    }
    assert "torch" in imports(ROOT / "model/transformer.py") and "model" in imports(ROOT / "train.py")


@pytest.mark.parametrize("path", [path for path in SOURCES if is_core(path)], ids=lambda p: str(p.relative_to(ROOT)))
def test_the_core_never_imports_a_leaf(path: Path):
    assert not imports(path) & LEAVES


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_imports_torchvision(path: Path):
    """A torchvision that does not fit its torch breaks on import; we need nothing of it."""
    assert "torchvision" not in imports(path)


def test_sampling_and_tokenizing_know_nothing_of_training():
    for folder in ("model", "tokenizer"):
        for path in (ROOT / folder).glob("*.py"):
            if path.name != "objective.py":
                assert not imports(path) & {"accelerate", "datasets"}, path
    assert "model" not in set.union(*(imports(path) for path in (ROOT / "tokenizer").glob("*.py")))
    assert not imports(ROOT / "model/sampling.py") & {"model", "tokenizer", "tasks", "data"}


def test_no_package_hides_a_library_or_a_module_of_python():
    packages = {path.name for path in ROOT.iterdir() if path.is_dir() and any(path.glob("*.py"))}
    packages |= {path.stem for path in ROOT.glob("*.py")}
    assert set(CORE) - {"diffusion"} <= packages
    assert not packages & sys.stdlib_module_names
    libraries = {"datasets", "tokenizers", "evaluate", "diffusers", "accelerate", "transformers", "torch", "utils"}
    assert not packages & libraries
    for name in packages - {"tests"}:
        spec = importlib.util.find_spec(name)
        assert spec is not None and spec.origin is not None and Path(spec.origin).is_relative_to(ROOT), name


CONFIGS = sorted((ROOT / "configs").rglob("*.yaml"))


def test_there_are_configs():
    assert len(CONFIGS) >= 2


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_config_loads(path: Path):
    if path.parent.name == "study":
        assert not Path(load_config(Plan, path).out).is_absolute()
        return
    if path.parent.name == "ablations":
        assert not Path(load_config(Ablations, path).out).is_absolute()
        return
    if path.parent.name == "classifier":
        assert not Path(load_config(ClassifierTraining, path).loop.out).is_absolute()
        return
    runs = load_runs(path)
    assert len(runs) == len(yaml.safe_load(path.read_text()))
    assert len({run.loop.out for run in runs}) == len(runs)
    for run in runs:
        assert not Path(run.loop.out).is_absolute()
    for before, run in pairwise(runs):  # each goes on from what was trained before it
        needed = [getattr(run, name, None) for name in ("tokenizer", "start")]
        assert str(Path(before.loop.out) / "checkpoint") in needed


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_config_opens_with_its_purpose_hardware_and_time(path: Path):
    head = path.read_text().split("\n\n")[0].split("tokenizer:")[0]
    assert head.startswith("# ") and "Hardware: " in head and "Time: " in head


def test_the_readmes_tables_are_as_the_results_say():
    from metrics.tables import fill

    text = (ROOT / "README.md").read_text()
    assert "<!-- table adherence " in text
    assert fill(text) == text, "run python -m metrics.tables"


def test_a_table_whose_marks_are_not_whole_is_refused():
    from metrics.tables import fill

    with pytest.raises(ValueError, match="begins 1 tables, but only 0"):
        fill("<!-- table runs shapes32, cifar10 -->\n<!-- end -->\n")
