"""The commit that results name: that of the code, whatever results lie beside it."""

import subprocess
from pathlib import Path

import pytest

from runtime.provenance import commit


def test_a_commit_is_marked_where_code_differs_from_it_and_not_where_results_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    for name in ("docs/results.json", "train.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("1")
    who = ("-c", "user.name=a", "-c", "user.email=a@example.org")
    for command in (("init", "-q"), ("add", "."), (*who, "commit", "-q", "-m", "first")):
        subprocess.run(["git", *command], check=True)
    clean = commit()
    assert len(clean) == 12 and not clean.endswith("+")
    (tmp_path / "docs/results.json").write_text("2")
    assert commit() == clean
    (tmp_path / "train.py").write_text("2")
    assert commit() == clean + "+"


def test_where_git_knows_nothing_the_environment_names_the_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    monkeypatch.setenv("PLANTAIN_COMMIT", "abc")
    assert commit() == "abc"
