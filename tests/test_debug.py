"""The whole path on the command line: train both parts on a few shapes, draw, and find everything in its place."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import sample
import train
from model import Plantain

ROOT = Path(__file__).parent.parent


def call(monkeypatch: pytest.MonkeyPatch, module, *arguments: object) -> None:
    monkeypatch.setattr(sys, "argv", [f"{module.__name__}.py", *map(str, arguments)])
    module.main()


def lines(out: Path, part: str) -> list[dict]:
    every = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [line for line in every if line["part"] == part]


def test_train_a_tokenizer_then_a_model_then_draw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    tokenizer, model, picture = tmp_path / "tokenizer", tmp_path / "model", tmp_path / "a.png"
    overrides = (
        f"tokenizer.loop.out={tokenizer}",
        f"model.loop.out={model}",
        f"model.tokenizer={tokenizer / 'checkpoint'}",
        "model.data.num_examples=128",
    )
    every = ("tokenizer.loop.log_every=5", "model.loop.log_every=5")
    call(monkeypatch, train, "--config", ROOT / "configs/debug.yaml", *overrides, *every)
    losses = [line["loss"] for line in lines(tokenizer, "train")]
    assert len(losses) == 12 and losses[-1] < 0.5 * losses[0]
    (judged,) = lines(tokenizer, "validation")
    assert judged["psnr"] > 10 and 0 < judged["ssim"] <= 1 and 0 < judged["code_usage"] <= 1
    assert 0 <= judged["same_scene"] <= 1
    assert (tokenizer / "samples" / "0000060" / "originals and reconstructions.png").is_file()
    for name in ("loss", "image_loss", "text_loss"):
        figures = [line[name] for line in lines(model, "train")]
        assert len(figures) == 8 and figures[-1] < 0.95 * figures[0], name
    (judged,) = lines(model, "validation")
    assert judged["image_loss"] < 6.9 and 0 <= judged["prompt_adherence"] <= 1  # a guess among 1000 codes: log 1000
    assert len((model / "samples" / "0000040" / "prompts.txt").read_text().splitlines()) == 4

    call(monkeypatch, sample, "a red circle", "--checkpoint", model / "checkpoint", "--out", picture, "--scale", "1")
    drawn = Plantain.from_pretrained(model / "checkpoint", "cpu").generate("a red circle")
    assert np.array_equal(np.asarray(Image.open(picture)), np.asarray(drawn.images[0]))
    assert drawn.images[0].size == (32, 32) and drawn.sampling.guidance == 2.0
