"""Training: killed runs end as if nothing had happened, and every number is the one that the formula gives."""

import hashlib
import json
import math
import os
import shutil
import signal
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import model.objective
import runtime.loop
from data.codes import encode_source
from data.shapes.source import ShapesConfig
from model.objective import ModelTraining, Sequences
from model.transformer import ModelConfig
from runtime.ema import EMA
from runtime.loop import LoopConfig, train
from runtime.optimizer import OptimizerConfig
from tokenizer.autoencoder import AutoencoderConfig
from tokenizer.image import ImageTokenizerConfig
from tokenizer.objective import ReconstructionLossConfig, TokenizerTraining
from tokenizer.quantizer import CosineVQConfig, FSQConfig
from tokenizer.text import TextTokenizer
from tokenizer.vocabulary import Vocabulary

SHAPES = ShapesConfig(num_examples=10, image_size=32, world="shapes32", num_captions=2)
FEW = replace(SHAPES, num_examples=2, split="val")


def loop(out: Path, **changes) -> LoopConfig:
    usual = dict(num_steps=8, batch_size=4, log_every=1, save_every=3, optimizer=OptimizerConfig(warmup_steps=2))
    return LoopConfig(out=str(out), **(usual | changes))


def tokenizer_training(out: Path, quantizer=None, loss: ReconstructionLossConfig | None = None, **changes):
    autoencoder = AutoencoderConfig(patch=4, widths=(32,), num_blocks=1)
    tokenizer = ImageTokenizerConfig(autoencoder, quantizer or FSQConfig(levels=(5, 5, 5)))
    loss = loss or ReconstructionLossConfig()
    return TokenizerTraining(loop(out, **changes), SHAPES, FEW, network=tokenizer, loss=loss)


@pytest.fixture
def model_training(tiny_image_tokenizer: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable:
    folder = tmp_path / "tokenizer"
    monkeypatch.setattr(model.objective, "encode_source", partial(encode_source, cache=tmp_path / "codes"))
    tiny_image_tokenizer(patch=4).save_pretrained(folder)
    sizes = ModelConfig(dim=32, depth=2, num_heads=4, num_kv_heads=2, head_dim=8, mlp_dim=48, max_length=160)

    def make(out: Path, text_weight: float = 0.1, **changes) -> ModelTraining:
        return ModelTraining(
            loop(out, **changes),
            SHAPES,
            FEW,
            str(folder),
            network=sizes,
            num_text=400,
            num_samples=1,
            text_weight=text_weight,
            caption_dropout=0.3,
        )

    return make


def digest(checkpoint: Path) -> str:
    return hashlib.sha256((checkpoint / "model.safetensors").read_bytes()).hexdigest()


def figures(out: Path) -> list[dict]:
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "seconds_per_step"} for line in lines]


def train_until_killed(config, step: int) -> None:
    """Trains in a process that gets SIGKILL right after that many steps."""
    child = os.fork()
    if child == 0:
        try:
            update = EMA.update

            def update_and_die(self: EMA, model: nn.Module, index: int) -> None:
                update(self, model, index)
                if index == step - 1:
                    os.kill(os.getpid(), signal.SIGKILL)

            EMA.update = update_and_die
            train(config)
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL


ADVERSARIAL = ReconstructionLossConfig(adversarial_weight=0.1, adversarial_start=2)


@pytest.mark.parametrize("kind", ["random", "fsq with discriminator", "cosine_vq", "model"])
def test_a_run_killed_and_restarted_ends_with_the_same_weights_bit_for_bit(
    kind: str, model_training: Callable, tmp_path: Path
):
    make = {
        "random": lambda out: LineTraining(loop(out)),
        "fsq with discriminator": lambda out: tokenizer_training(out, loss=ADVERSARIAL),
        "cosine_vq": lambda out: tokenizer_training(out, CosineVQConfig(codebook_size=16, code_dim=4)),
        "model": model_training,
    }[kind]
    if kind == "model":
        train(make(tmp_path / "first"))  # fills the cache of codes
    whole = train(make(tmp_path / "whole"))
    killed = make(tmp_path / "killed")
    train_until_killed(killed, step=5)
    assert torch.load(tmp_path / "killed" / "state.pt", weights_only=True)["step"] == 3
    assert [line["step"] for line in figures(tmp_path / "killed")] == [1, 2, 3, 4]
    half = digest(tmp_path / "killed" / "checkpoint")
    again = train(killed)
    assert figures(tmp_path / "killed") == figures(tmp_path / "whole")
    assert digest(again) == digest(whole) != half
    assert [line["step"] for line in figures(tmp_path / "whole")] == [1, 2, 3, 4, 5, 6, 7, 8, 8]


def test_a_run_that_finds_its_codes_in_the_cache_is_that_which_encoded_them(model_training: Callable, tmp_path: Path):
    first, second = (train(model_training(tmp_path / name, num_steps=1)) for name in ("first", "second"))
    assert digest(first) == digest(second)


@pytest.mark.compile
@pytest.mark.skipif(shutil.which("g++") is None and not torch.cuda.is_available(), reason="no compiler")
@pytest.mark.parametrize("kind", ["tokenizer", "tokenizer with discriminator", "model"])
def test_a_compiled_run_learns_as_an_ordinary_one(kind: str, model_training: Callable, tmp_path: Path):
    make = {
        "tokenizer": tokenizer_training,
        "tokenizer with discriminator": partial(tokenizer_training, loss=ADVERSARIAL),
        "model": model_training,
    }[kind]
    runs = []
    for compiled in (False, True):
        out = tmp_path / f"compiled-{compiled}"
        train(make(out, num_steps=4, compile=compiled))
        runs.append([line["loss"] for line in figures(out) if line["part"] == "train"])
    ordinary, compiled = runs
    assert compiled == pytest.approx(ordinary, rel=1e-3)
    assert len(compiled) == 4


@pytest.mark.parametrize("kind", ["tokenizer", "model"])
def test_bf16_learns_as_fp32_does_but_for_rounding(kind: str, model_training: Callable, tmp_path: Path):
    make = {"tokenizer": tokenizer_training, "model": model_training}[kind]
    runs = []
    for precision in ("fp32", "bf16"):
        train(make(tmp_path / precision, num_steps=4, precision=precision))
        runs.append([line["loss"] for line in figures(tmp_path / precision) if line["part"] == "train"])
    exact, rounded = runs
    assert rounded == pytest.approx(exact, rel=0.03) and rounded != exact
    state = torch.load(tmp_path / "bf16" / "state.pt", weights_only=True)
    assert {tensor.dtype for tensor in state["model"].values()} == {torch.float32}


def test_bf16_where_a_cpu_has_no_units_for_it_is_warned_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    with pytest.warns(UserWarning, match="set precision=fp32"):
        train(tokenizer_training(tmp_path / "narrow", num_steps=1, precision="bf16"))
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    with warnings.catch_warnings(record=True) as caught:
        train(tokenizer_training(tmp_path / "wide", num_steps=1, precision="bf16"))
    assert not [warning for warning in caught if "precision" in str(warning.message)]


def test_a_finished_run_that_is_started_again_changes_nothing(tmp_path: Path):
    config = tokenizer_training(tmp_path / "run", num_steps=2)
    checkpoint = train(config)
    before, lines = digest(checkpoint), figures(tmp_path / "run")
    assert train(config) == checkpoint
    assert digest(checkpoint) == before and figures(tmp_path / "run") == lines


def test_a_run_stopped_before_its_last_judgement_is_judged_when_started_again(tmp_path: Path):
    config = tokenizer_training(tmp_path, num_steps=2)
    train(config)
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines[:-1]) + '\n{"step": 2, "part": "vali')
    train(config)
    assert (tmp_path / "metrics.jsonl").read_text().splitlines() == lines


def test_another_seed_gives_other_weights(tmp_path: Path):
    digests = {digest(train(tokenizer_training(tmp_path / str(seed), num_steps=1, seed=seed))) for seed in range(2)}
    assert len(digests) == 2


def test_a_folder_with_another_configs_run_is_left_alone(tmp_path: Path):
    config = tokenizer_training(tmp_path / "run", num_steps=1)
    before = digest(train(config))
    with pytest.raises(ValueError, match="holds a run of another config: choose another `loop.out`"):
        train(replace(config, loop=replace(config.loop, batch_size=2)))
    assert digest(tmp_path / "run" / "checkpoint") == before


def test_a_run_goes_on_although_the_config_has_gained_a_setting_since(tmp_path: Path):
    config = tokenizer_training(tmp_path / "run", num_steps=1)
    before = digest(train(config))
    saved = tmp_path / "run" / "config.yaml"
    lines = saved.read_text().splitlines(keepends=True)
    older = [line for line in lines if not line.startswith("trained:")]
    assert len(older) == len(lines) - 1
    saved.write_text("".join(older))
    assert digest(train(config)) == before


def test_a_truncated_state_says_what_to_remove(tmp_path: Path):
    config = tokenizer_training(tmp_path / "run", num_steps=1)
    train(config)
    state = tmp_path / "run" / "state.pt"
    state.write_bytes(state.read_bytes()[:5000])
    with pytest.raises(ValueError, match=r"state.pt can't be read .*: remove .*run to start over"):
        train(config)


def plain_descent(parameters, outer, config, dtype) -> list[torch.optim.Optimizer]:
    """Unlike Adam it does not blow the last bit of a small gradient up to a whole step."""
    optimizer = torch.optim.SGD([parameter for _, parameter in parameters], lr=0.05)
    optimizer.param_groups[0]["initial_lr"] = 0.05
    return [optimizer]


@pytest.mark.parametrize("kind", ["tokenizer", "model", "model that learns captions"])
def test_accumulating_parts_of_a_batch_changes_nothing(
    kind: str, model_training: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(runtime.loop, "build_optimizers", plain_descent)
    make = {
        "tokenizer": tokenizer_training,
        "model": lambda out, **changes: model_training(out, text_weight=0.0, **changes),
        "model that learns captions": lambda out, **changes: model_training(out, text_weight=1.0, **changes),
    }[kind]
    train(make(tmp_path / "first", num_steps=1))  # fills the cache of codes
    states = []
    for parts in (1, 2):
        out = tmp_path / str(parts)
        train(make(out, num_steps=2, num_accumulated=parts, ema_decay=0.0))
        states.append((torch.load(out / "state.pt", weights_only=True)["model"], figures(out)[0]))
    assert states[0][1]["loss"] == pytest.approx(states[1][1]["loss"], rel=1e-5)
    assert states[0][1]["gradient_norm"] == pytest.approx(states[1][1]["gradient_norm"], rel=1e-4)
    for name, tensor in states[0][0].items():
        torch.testing.assert_close(tensor, states[1][0][name], atol=1e-5, rtol=0)


class Line(nn.Module):
    """y = w x with random noise, and a loss that can be told to break."""

    def __init__(self, broken_from: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.broken_from = broken_from

    def forward(self, x: torch.Tensor, step: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        loss = ((self.weight * x - 3 * x) ** 2).mean() + 0.1 * (self.weight * torch.randn(3)).sum()
        return loss * (math.nan if step >= self.broken_from else 1.0), {"x": x.mean()}


class LineObjective:
    def __init__(self, broken_from: int) -> None:
        self.model = Line(broken_from)

    def outer_parameters(self) -> list[torch.Tensor]:
        return []

    def dataset(self) -> "Numbers":
        return Numbers()

    def length(self, item: float) -> int:
        return int(item)

    def collate(self, items: list[float]) -> dict[str, torch.Tensor]:
        return {"x": torch.tensor(items)}

    def evaluate(self, model: nn.Module, folder: Path) -> dict[str, float]:
        return {"weight": float(model.weight)}

    def export(self, model: nn.Module, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        save_file(model.state_dict(), folder / "model.safetensors")


class Numbers(torch.utils.data.Dataset):
    def __len__(self) -> int:
        return 7

    def __getitem__(self, key: tuple[int, int]) -> float:
        return 1.0 + key[1]


@dataclass(frozen=True)
class LineTraining:
    loop: LoopConfig
    broken_from: int = 10**6
    extra: dict = field(default_factory=dict, init=False)

    def build(self, device: torch.device) -> LineObjective:
        return LineObjective(self.broken_from)


def test_a_loss_that_is_no_number_stops_the_run_and_keeps_the_last_good_state(tmp_path: Path):
    config = LineTraining(loop(tmp_path, num_steps=9, log_every=2, save_every=3), broken_from=4)
    with pytest.raises(ValueError, match="step 6: not finite: .*lower the learning rate"):
        train(config)
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    assert state["step"] == 3 and state["model"]["weight"].isfinite().all()
    assert [line["step"] for line in figures(tmp_path)] == [2, 3, 4]


def test_the_loop_evaluates_and_logs_when_it_should(tmp_path: Path):
    train(LineTraining(loop(tmp_path, num_steps=7, log_every=3, save_every=100, evaluate_every=2)))
    steps = [(line["step"], line["part"]) for line in figures(tmp_path)]
    train_steps = [step for step, part in steps if part == "train"]
    assert train_steps == [3, 6, 7] and [step for step, part in steps if part == "validation"] == [2, 4, 6, 7]
    weight = float(load_file(tmp_path / "checkpoint" / "model.safetensors")["weight"])
    assert figures(tmp_path)[-1]["weight"] == pytest.approx(weight) and weight > 0  # the average, and it moves to 3


def test_gradients_are_clipped_and_the_rate_follows_the_schedule(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(runtime.loop, "build_optimizers", plain_descent)
    schedule = OptimizerConfig(warmup_steps=4)
    train(LineTraining(loop(tmp_path, num_steps=1, clip_norm=0.5, optimizer=schedule)))
    weight = torch.load(tmp_path / "state.pt", weights_only=True)["model"]["weight"]
    assert float(weight) == pytest.approx(0.5 * 0.05 * 0.25, rel=1e-4)  # gradient 0.5, rate 0.05, a quarter of it


@pytest.mark.parametrize("name", ["num_steps", "batch_size", "num_accumulated", "log_every", "save_every"])
def test_a_loop_that_would_never_end_or_begin_is_refused(name: str):
    with pytest.raises(ValueError, match=f"{name} is 0, but must be at least 1"):
        LoopConfig(**({"out": "x", "num_steps": 1} | {name: 0}))


def test_a_batch_that_can_not_be_divided_is_refused():
    with pytest.raises(ValueError, match="batch_size 64 is no multiple of num_accumulated 3"):
        LoopConfig("x", 1, num_accumulated=3)


def test_parts_of_a_batch_are_the_batch_and_hold_what_is_of_like_length():
    class Alone:
        process_index, num_processes, device = 0, 1, torch.device("cpu")

    def batches(parts: int) -> list[list[list[float]]]:
        settings = LoopConfig("x", num_steps=4, batch_size=6, num_accumulated=parts)
        loader = runtime.loop._loader(LineObjective(10), settings, 1, Alone())
        return [[part["x"].tolist() for part in batch] for batch in loader]

    for whole, parts in zip(batches(1), batches(3), strict=True):
        assert sum(parts, []) == whole[0] == sorted(whole[0])
        assert [len(part) for part in parts] == [2, 2, 2]


@pytest.fixture
def sequences(model_training: Callable, text_tokenizer: TextTokenizer, tmp_path: Path) -> Callable:
    vocabulary = Vocabulary(text_tokenizer.num_text, 9)
    rows = [{"codes": [[index % 9, 1], [2, 3]], "captions": ["ring", "red cross"]} for index in range(50)]

    def make(dropout: float, seed: int = 0) -> Sequences:
        return Sequences(rows, text_tokenizer, vocabulary, model_training(tmp_path / "run", seed=seed), dropout)

    return make


def texts(dataset: Sequences, epochs: int = 30) -> list[str]:
    keys = [(epoch, index) for epoch in range(epochs) for index in range(len(dataset))]
    return [
        dataset.text.decode([i for i in dataset[key].ids.tolist() if i < dataset.vocabulary.image_start])
        for key in keys
    ]


def test_captions_are_dropped_and_chosen_as_often_as_they_should(sequences: Callable):
    said = texts(sequences(dropout=0.3))
    shares = [said.count(caption) / len(said) for caption in ("", "ring", "red cross")]
    assert shares == pytest.approx([0.3, 0.35, 0.35], abs=0.04)
    assert set(texts(sequences(dropout=0.0), epochs=5)) == {"ring", "red cross"}


def test_captions_depend_on_seed_epoch_and_index_alone(sequences: Callable):
    said = texts(sequences(dropout=0.3), epochs=3)
    again = sequences(dropout=0.3)
    last = again[2, 49].ids.tolist()  # read first
    assert texts(again, epochs=3) == said and again[2, 49].ids.tolist() == last
    assert said[:50] != said[50:100]
    assert texts(sequences(dropout=0.3, seed=1), epochs=3) != said


def test_an_example_longer_than_the_model_reads_is_refused(sequences: Callable):
    dataset = sequences(dropout=0.0)
    dataset.codes = [{"codes": [[1]], "captions": ["q" * 200]}]
    with pytest.raises(ValueError, match=r"example 0 is 207 ids long, but network.max_length is 160"):
        dataset[0, 0]
