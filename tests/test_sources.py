"""A config's `kind` decides where examples come from."""

from dataclasses import dataclass
from pathlib import Path

import pytest
from PIL import Image

from data.example import Source
from data.images import Images, ImagesConfig
from data.shapes.source import Shapes, ShapesConfig
from data.sources import SourceConfig, open_source
from runtime.config import load_config


@dataclass(frozen=True)
class Run:
    data: SourceConfig


def test_kind_opens_the_source_of_that_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "photos" / "a.png")
    path = tmp_path / "run.yaml"

    path.write_text("data: {kind: shapes, num_examples: 3}")
    run = load_config(Run, path)
    assert run == Run(ShapesConfig(num_examples=3))
    source = open_source(run.data)
    assert isinstance(source, Shapes) and isinstance(source, Source) and len(source) == 3

    path.write_text(f"data: {{kind: images, path: {tmp_path / 'photos'}, caption: a photo}}")
    run = load_config(Run, path)
    assert isinstance(run.data, ImagesConfig)
    source = open_source(run.data)
    assert isinstance(source, Images) and isinstance(source, Source) and source[0].text == "a photo"
