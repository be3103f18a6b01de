"""A config says what it means, or the error says where and what instead."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest

from runtime.config import from_dict, load_config, save_config, to_dict


@dataclass(frozen=True)
class Drawn:
    kind: Literal["drawn"] = "drawn"
    image_size: int = 32
    seed: int = 0


@dataclass(frozen=True)
class Stored:
    path: str
    kind: Literal["stored"] = "stored"
    image_size: int = 256
    label: str | None = None


@dataclass(frozen=True)
class Net:
    depth: int = 4
    dropout: float = 0.0
    norm: Literal["rms", "layer"] = "rms"
    strides: tuple[int, ...] = (2, 2)
    range: tuple[int, float] = (1, 2.0)
    compile: bool = False

    def __post_init__(self) -> None:
        if self.depth < 1:
            raise ValueError(f"depth must be at least 1, got {self.depth}")


@dataclass(frozen=True)
class Train:
    kind: Literal["train"] = "train"
    data: Drawn | Stored = Drawn(seed=7)
    model: Net = Net(depth=6)
    twin: Net | None = None
    out: Path = Path("runs")
    clip: float | Literal["off"] = "off"


@dataclass(frozen=True)
class Other:
    kind: Literal["other"] = "other"
    steps: int = 1


@pytest.fixture
def write(tmp_path: Path):
    def write(text: str) -> Path:
        path = tmp_path / "a.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


def fails(message: str):
    return pytest.raises(ValueError, match=re.escape(message))


def test_without_a_file_the_config_is_the_defaults():
    assert load_config(Train, None) == Train()


def test_a_file_changes_what_it_names_and_keeps_the_rest_of_the_default_instance(write):
    config = load_config(Train, write("model: {dropout: 0.1}\ntwin: {norm: layer}\n"))
    assert config.model == Net(depth=6, dropout=0.1)
    assert config.twin == Net(norm="layer")


def test_an_empty_file_is_the_defaults(write):
    assert load_config(Train, write("# only a comment\n")) == Train()


def test_kind_chooses_the_dataclass(write):
    config = load_config(Train, write("data: {kind: stored, path: x}\n"))
    assert config.data == Stored(path="x")  # with its own image_size, not the default's


def test_kind_on_the_command_line_chooses_the_dataclass_too():
    config = load_config(Train, None, ["data.kind=stored", "data.path=x", "data.image_size=64"])
    assert config.data == Stored(path="x", image_size=64)


def test_without_kind_the_default_is_completed():
    assert load_config(Train, None, ["data.image_size=8"]).data == Drawn(image_size=8, seed=7)


def test_the_top_level_kind_chooses_among_classes(write):
    path = write("kind: other\nsteps: 3\n")
    assert load_config((Train, Other), path) == Other(steps=3)
    with fails("kind: missing, expected 'train' or 'other'"):
        load_config((Train, Other), write("steps: 3\n"))
    with fails("kind: got 'mine', expected 'train' or 'other'"):
        load_config((Train, Other), path, ["kind=mine"])


def test_overrides_win_over_the_file_in_every_spelling(write):
    path = write("model: {depth: 2}\n")
    for override in (["model.depth=8"], ["--model.depth=8"], ["--model.depth", "8"]):
        assert load_config(Train, path, override).model.depth == 8
    assert load_config(Train, path, ["model.depth=8", "model.depth=9"]).model.depth == 9


def test_an_override_may_hold_a_whole_mapping_or_list():
    config = load_config(Train, None, ["data={kind: stored, path: a}", "data.label=b", "model.strides=[4, 2]"])
    assert config.data == Stored(path="a", label="b")
    assert config.model.strides == (4, 2)


def test_strings_on_the_command_line_need_no_quotes():
    config = load_config(Train, None, ["data.kind=stored", "data.path=2024", "data.label=no"])
    assert config.data == Stored(path="2024", label="no")
    assert load_config(Train, None, ["data.kind=stored", "data.path=", "data.label=null"]).data == Stored(path="")


@pytest.mark.parametrize("override", [["model.depth"], ["--model.depth"], ["--model.depth", "--x=1"], ["=3"]])
def test_an_override_without_a_key_or_value_is_an_error(override: list[str]):
    with fails("expected key=value"):
        load_config(Train, None, override)


def test_an_override_may_open_what_the_file_left_out(write):
    assert load_config(Train, write("twin: null\n"), ["twin.depth=3"]).twin == Net(depth=3)
    with fails("model.depth: got {'x': '1'}, expected int"):
        load_config(Train, write("model: {depth: 3}\n"), ["model.depth.x=1"])


def test_floats_may_be_written_in_every_usual_way(write):
    for text, value in (("1e-3", 0.001), ("2", 2.0), (".5", 0.5), ("-1.5E+2", -150.0)):
        dropout = load_config(Train, write(f"model: {{dropout: {text}}}\n")).model.dropout
        assert dropout == value and type(dropout) is float


def test_scalars_may_be_unions():
    assert load_config(Train, None, ["clip=1"]).clip == 1.0
    assert (
        load_config(
            Train,
            None,
            ["clip=off"],
        ).clip
        == "off"
    )
    with fails("clip: got 'on', expected float or 'off'"):
        from_dict(Train, {"clip": "on"})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model: {depth: eight}", "model.depth: got 'eight', expected int"),
        ("model: {depth: 2.0}", "model.depth: got 2.0, expected int"),
        ("model: {depth: true}", "model.depth: got True, expected int"),
        ("model: {depth: null}", "model.depth: got None, expected int"),
        ("model: {dropout: true}", "model.dropout: got True, expected float"),
        ("model: {dropout: .nan}", "model.dropout: got nan, expected a finite float"),
        ("model: {dropout: .inf}", "model.dropout: got inf, expected a finite float"),
        ("model: {dropout: nan}", "model.dropout: got 'nan', expected float"),
        ("model: {dropout: 1e999}", "model.dropout: got '1e999', expected"),
        ("model: {compile: 1}", "model.compile: got 1, expected bool"),
        ("model: {norm: batch}", "model.norm: got 'batch', expected 'rms' or 'layer'"),
        ("model: {strides: [2, x]}", "model.strides[1]: got 'x', expected int"),
        ("model: {strides: 2}", "model.strides: got 2, expected a list of int"),
        ("model: {range: [1]}", "model.range: got [1], expected a list of 2: int, float"),
        ("model: 3", "model: got 3, expected the keys of Net"),
        ("data: 3", "data: got 3, expected the keys of Drawn or the keys of Stored"),
        ("out: 3", "out: got 3, expected Path"),
        ("model: {dpeth: 8}", "model.dpeth: got 8, but Net has no such key; the nearest is 'model.depth'"),
        ("modle: {depth: 8}", "the nearest is 'model'"),
        ("on: 3", "True: got 3, but Train has no such key"),
        ("data: {kind: stored, seed: 1, path: x}", "data.seed: got 1, but Stored has no such key"),
        ("data: {kind: stored}", "data.path: missing, expected str"),
        ("data: {kind: stored, path: 5}", "data.path: got 5, expected str"),
        ("data: {kind: thing}", "data.kind: got 'thing', expected 'drawn' or 'stored'"),
        ("kind: other", "kind: got 'other', expected 'train'"),
        ("model: {depth: 0}", "model: depth must be at least 1, got 0"),
        ("[1, 2]", "got [1, 2], expected `key: value` lines"),
        ("model: {depth: 1}\nmodel: {depth: 2}", "the key 'model' stands twice"),
        ("model: {depth", "not valid YAML"),
    ],
)
def test_an_error_names_file_key_value_and_what_was_expected(write, text: str, message: str):
    path = write(text + "\n")
    with fails(message) as caught:
        load_config(Train, path)
    assert str(caught.value).startswith(f"{path}: ")


def test_a_missing_file_says_which_there_are(write):
    path = write("")
    with pytest.raises(FileNotFoundError, match=re.escape(str(path))):
        load_config(Train, path.with_name("b.yaml"))


def test_saving_and_loading_is_the_identity(tmp_path: Path):
    config = Train(
        data=Stored(path="1e-3", label="no"), model=Net(dropout=1e-5, strides=()), twin=Net(), out=Path("a/ü"), clip=0.1
    )
    path = tmp_path / "run" / "config.yaml"
    save_config(config, path)
    assert load_config(Train, path) == config
    assert from_dict(Train, to_dict(config)) == config
    assert [file.name for file in path.parent.iterdir()] == ["config.yaml"]
