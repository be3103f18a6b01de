"""The twin: its flow, its network, how well it matches the other contender, and that it learns."""

import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from data.shapes.source import ShapesConfig
from diffusion.flow import FlowSampling, draw_times, mix, num_passes, solve
from diffusion.network import FlowTransformer, flops, matched
from diffusion.objective import TwinTraining
from diffusion.twin import Twin, collate
from model import Plantain
from model.transformer import ModelConfig, Transformer
from runtime.loop import LoopConfig, train
from runtime.optimizer import OptimizerConfig
from tasks.text_to_image import text_to_image
from tokenizer.sequence import pack
from tokenizer.vocabulary import Vocabulary

ROOT = Path(__file__).parent.parent
VOCABULARY = Vocabulary(512, 1000)
SHIPPED = ModelConfig(192, 6, 3, 1, 64, 512, 128)
LARGE = ModelConfig(768, 12, 12, 3, 64, 2048, 512)
SMALL = ModelConfig(dim=32, depth=1, num_heads=2, num_kv_heads=1, head_dim=16, mlp_dim=64, max_length=128)


def end_of(solver: str, num_steps: int, velocity) -> float:
    *_, end = solve(velocity, torch.ones(1, dtype=torch.float64), num_steps, solver)
    return float(end)


def test_every_solver_is_exact_where_paths_are_straight():
    data, noise = torch.randn(4, 3), torch.randn(4, 3)
    for solver in ("euler", "midpoint", "heun"):
        for estimate in solve(lambda x, t: data - noise, noise, 3, solver):
            assert torch.allclose(estimate, data, atol=1e-5)  # foreseen from the first step on


@pytest.mark.parametrize(("solver", "order"), [("euler", 1), ("midpoint", 2)])
def test_errors_fall_with_the_steps_as_the_solvers_order_says(solver, order):
    errors = [abs(end_of(solver, steps, lambda x, t: x * math.cos(t)) - math.exp(math.sin(1))) for steps in (40, 80)]
    assert math.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.1)


def test_heuns_errors_come_from_its_last_step_which_is_eulers():
    true = math.exp(math.sin(1))
    errors = [abs(end_of("heun", steps, lambda x, t: x * math.cos(t)) - true) for steps in (40, 80)]
    assert math.log2(errors[0] / errors[1]) == pytest.approx(2, abs=0.15)  # one step of error 1 / steps squared
    assert errors[0] < abs(end_of("euler", 40, lambda x, t: x * math.cos(t)) - true) / 5


def test_a_velocity_is_never_asked_for_at_the_end():
    for solver in ("euler", "midpoint", "heun"):
        times: list[float] = []

        def velocity(x: torch.Tensor, time: float, times: list[float] = times) -> torch.Tensor:
            times.append(time)
            return x

        list(solve(velocity, torch.zeros(1), 5, solver))
        assert max(times) < 1 and min(times) == 0


def test_times_to_train_at_are_those_of_a_normal_one_in_each_part_and_in_random_order():
    torch.manual_seed(0)
    times = draw_times(1000, torch.device("cpu"))
    normal = times.logit()
    assert abs(normal.mean()) < 0.01 and abs(normal.std() - 1) < 0.01
    parts = (torch.special.ndtr(normal.double()) * 1000).long()
    assert sorted(parts.tolist()) == list(range(1000))
    assert not torch.equal(times, times.sort().values)
    assert 0 < draw_times(1, torch.device("cpu")) < 1


def test_places_on_a_path_move_from_noise_to_data():
    data, noise = torch.randn(2, 5), torch.randn(2, 5)
    assert torch.equal(mix(data, noise, torch.zeros(2)), noise)
    assert torch.equal(mix(data, noise, torch.ones(2)), data)
    later = mix(data, noise, torch.full((2,), 0.75)) - mix(data, noise, torch.full((2,), 0.5))
    assert torch.allclose(later / 0.25, data - noise, atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "count"),
    [
        ({"guidance": 1.0, "num_steps": 8, "solver": "euler"}, 8),
        ({"guidance": 2.0, "num_steps": 8, "solver": "euler"}, 16),
        ({"guidance": 2.0, "num_steps": 8, "solver": "midpoint"}, 32),
        ({"guidance": 2.0, "num_steps": 8, "solver": "heun"}, 30),
        ({"guidance": 2.0, "num_steps": 10, "solver": "euler", "guidance_from": 0.25, "guidance_until": 0.65}, 14),
    ],
)
def test_passes_are_counted_as_they_are_made(settings, count):
    assert num_passes(FlowSampling(**settings)) == count


@pytest.mark.parametrize(
    "wrong", [{"num_steps": 0}, {"guidance": -1.0}, {"guidance_from": 0.6, "guidance_until": 0.5}, {"solver": "rk45"}]
)
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises((ValueError, TypeError), match="must be|has to|solver"):
        replace(FlowSampling(), **wrong)


@pytest.mark.parametrize("length", [70, 80, 100])
@pytest.mark.parametrize("config", [SMALL, SHIPPED, LARGE])
def test_the_twin_has_the_others_parameters_and_operations_to_within_two_percent(config, length):
    with torch.device("meta"):
        twin, other = FlowTransformer(config, VOCABULARY, 4, 64 / length), Transformer(config, VOCABULARY.size)
    sizes = [sum(parameter.numel() for parameter in network.parameters()) for network in (twin, other)]
    assert sizes[0] == pytest.approx(sizes[1], rel=0.02)
    ours, theirs = flops(config, twin.mlp_dim, length, 64, 2 * 4), flops(config, config.mlp_dim, length, 64, 1000)
    assert ours == pytest.approx(theirs, rel=0.02)


def test_a_shape_without_a_twin_is_refused():
    with pytest.raises(ValueError, match="no twin"):
        matched(replace(SMALL, depth=200), Vocabulary(512, 16), 8, 0.8)
    with pytest.raises(ValueError, match="no multiple of 4"):
        FlowTransformer(replace(SMALL, dim=30), VOCABULARY, 4)


def sequences(*lengths: int) -> dict[str, torch.Tensor]:
    grid = np.zeros((4, 4), np.int64)
    return collate([pack(text_to_image(list(range(300, 300 + count)), grid), VOCABULARY, "grid") for count in lengths])


@pytest.fixture
def network() -> FlowTransformer:
    torch.manual_seed(0)
    network = FlowTransformer(SMALL, VOCABULARY, 4).eval()
    for parameter in network.parameters():  # also where it begins with zeros
        torch.nn.init.normal_(parameter, std=0.2)
    return network


@torch.no_grad()
def test_operations_are_those_that_torch_counts(network):
    batch = sequences(5)
    length = batch["ids"].shape[1]
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        network(**batch, latents=torch.randn(16, 4), times=torch.tensor([0.5]))
    mlp_dim, time_dim = matched(SMALL, VOCABULARY, 4, 0.8)
    time_map = 2 * time_dim * (256 + 6 * SMALL.dim)
    assert counter.get_total_flops() == flops(SMALL, mlp_dim, length, 16, 2 * 4) + time_map


def test_a_place_is_told_from_the_pictures_corner_whatever_was_said_before(network):
    short, long = (
        network.placed(batch["positions"], batch["ids"] >= VOCABULARY.image_start, batch["places"])
        for batch in (sequences(5), sequences(5, 20))
    )
    assert torch.equal(short, long[:16]) and torch.equal(short, long[16:])
    rows, columns = short.view(4, 4, 2, -1).unbind(2)
    assert torch.equal(rows[:, 0], rows[:, 3]) and torch.equal(columns[0], columns[3])
    assert len(short.unique(dim=0)) == 16


@torch.no_grad()
def test_places_see_text_and_one_another_and_padding_changes_nothing(network):
    latents, time = torch.randn(16, 4), torch.tensor([0.3])
    alone = network(**sequences(5), latents=latents, times=time)
    padded = network(**sequences(5, 20), latents=torch.cat([latents] * 2), times=time.repeat(2))[:16]
    assert torch.allclose(alone, padded, atol=1e-5)
    moved = latents.clone()
    moved[15] += 1
    assert (
        network(**sequences(5), latents=moved, times=time)[0] - alone[0]
    ).abs().max() > 1e-4  # the last to the first
    told = sequences(5)
    told["ids"][0, 1] += 1
    assert (network(**told, latents=latents, times=time) - alone).abs().amax(1).min() > 1e-5
    assert (network(**sequences(5), latents=latents, times=time + 0.3) - alone).abs().max() > 1e-4


def test_attention_by_whole_products_sees_what_the_fused_one_sees(network, monkeypatch):
    batch, time = sequences(5, 9), torch.tensor([0.3, 0.8])
    latents = torch.randn(len(batch["places"]), 4)
    fused = network(**batch, latents=latents, times=time)
    monkeypatch.setattr("model.transformer._products_pay", lambda x: True)
    torch.testing.assert_close(network(**batch, latents=latents, times=time), fused, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_text_sees_neither_the_picture_nor_the_time(network):
    seen = []
    handle = network.norm.register_forward_hook(lambda module, inputs, output: seen.append(output))
    batch = sequences(5)
    before = int(batch["places"][0])
    for time in (0.1, 0.9):
        network(**batch, latents=torch.randn(16, 4), times=torch.tensor([time]))
    handle.remove()
    assert torch.equal(seen[0][:, :before], seen[1][:, :before])
    assert not torch.allclose(seen[0][:, before], seen[1][:, before], atol=1e-3)


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> tuple[TwinTraining, Path]:
    """A twin that has learnt a little, on the shipped image tokenizer's latents."""
    folder = tmp_path_factory.mktemp("twin")
    Plantain.from_pretrained(ROOT / "checkpoints/shapes32").image_tokenizer.save_pretrained(folder / "tokenizer")
    data = ShapesConfig(64, image_size=32, world="shapes32")
    config = TwinTraining(
        LoopConfig(str(folder / "run"), 60, 32, save_every=30, optimizer=OptimizerConfig(warmup_steps=5)),
        data,
        replace(data, split="val", num_examples=16),
        str(folder / "tokenizer"),
        network=SMALL,
        recipe=FlowSampling(num_steps=4),
        num_samples=4,
    )
    return config, train(config)


def test_the_loss_falls(trained):
    config, _ = trained
    lines = [json.loads(line) for line in (Path(config.loop.out) / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if line["part"] == "train"]
    validation = lines[-1]
    assert losses[-1] < 0.8 * losses[0]
    assert 0 < validation["flow_loss"] < 2 and {f"loss_at_{tenth / 10 + 0.05:.2f}" for tenth in range(10)} <= set(
        validation
    )


def test_a_run_that_was_killed_ends_with_the_same_weights(trained, tmp_path):
    config, checkpoint = trained
    again = replace(config, loop=replace(config.loop, out=str(tmp_path / "run")))
    stopped = Path(again.loop.out)

    class KilledError(Exception):
        pass

    def kill(*_):
        raise KilledError

    from runtime import loop

    saved, loop._save = loop._save, lambda *arguments: (saved(*arguments), kill())
    try:
        with pytest.raises(KilledError):
            train(again)
    finally:
        loop._save = saved
    assert (stopped / "state.pt").exists()
    train(again)
    left, right = (
        Twin.from_pretrained(path, "cpu").network.state_dict() for path in (checkpoint, stopped / "checkpoint")
    )
    assert all(torch.equal(left[name], right[name]) for name in left)


def test_a_picture_is_the_same_alone_among_others_and_streamed(trained):
    twin = Twin.from_pretrained(trained[1], "cpu")
    prompts = ["a red circle", None, "a small blue square above a large green cross"]
    together = twin.generate(prompts, num_images=2, seed=3)
    assert [grid.shape for grid in together.codes] == [(8, 8)] * 6 and together.num_passes == 14
    for place, (prompt, batch_size) in enumerate(zip(prompts, (1, 2, 5), strict=True)):
        alone = twin.generate([prompt], num_images=2, seed=3, batch_size=batch_size)
        assert np.array_equal(alone.codes, together.codes[2 * place : 2 * place + 2])
    assert not np.array_equal(together.codes[0], together.codes[1])
    assert np.array_equal(twin.generate(prompts[:1], seed=3, first=1).codes[0], together.codes[1])
    *_, last = twin.stream("a red circle", seed=3)
    assert np.array_equal(np.asarray(last), np.asarray(together.images[0]))


def test_what_is_not_wanted_takes_the_place_of_nothing_said(trained):
    twin, sampling = Twin.from_pretrained(trained[1], "cpu"), FlowSampling(0.0, num_steps=1, solver="euler")

    def end(prompt: str | None, guidance: float, negative: str | None = None) -> torch.Tensor:
        *_, last = twin.follow([(prompt, 0)], 0, (8, 8), replace(sampling, guidance=guidance), negative)
        return last.detach()

    assert torch.allclose(end("a red circle", 0.0, "a green cross"), end("a green cross", 1.0), atol=1e-5)
    assert torch.allclose(end("a red circle", 0.0), end(None, 1.0), atol=1e-5)
    drawn = twin.generate("a red circle", negative="a green cross", seed=1)
    assert not np.array_equal(drawn.codes[0], twin.generate("a red circle", seed=1).codes[0])
    *_, streamed = twin.stream("a red circle", seed=1, negative="a green cross")
    assert np.array_equal(np.asarray(streamed), np.asarray(drawn.images[0]))


def test_weights_may_be_stored_and_used_in_bf16(trained, tmp_path):
    twin = Twin.from_pretrained(trained[1], "cpu")
    twin.save_pretrained(tmp_path / "narrow", "bf16")
    narrow = Twin.from_pretrained(tmp_path / "narrow", "cpu", "bf16")
    assert narrow.network.head.weight.dtype == torch.bfloat16 and narrow.space.mean.dtype == torch.float32
    seen = []
    narrow.network.norm.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    ends = []
    for one in (twin, narrow):
        *_, end = one.follow([("a red circle", 0)], 0, (8, 8), FlowSampling(2.0, num_steps=2))
        ends.append(end.detach())
    assert set(seen) == {torch.bfloat16}
    torch.testing.assert_close(ends[1], ends[0], atol=0.1, rtol=0.1)
    assert (tmp_path / "narrow/model.safetensors").stat().st_size < (trained[1] / "model.safetensors").stat().st_size


@pytest.mark.compile
def test_compiled_passes_foresee_what_plain_ones_do(trained):
    ends = []
    for twin in (Twin.from_pretrained(trained[1], "cpu"), Twin.from_pretrained(trained[1], "cpu").compile()):
        sampling = FlowSampling(2.0, guidance_until=0.5, num_steps=4)
        *_, end = twin.follow([("a red circle", 0), (None, 1)], 3, (8, 8), sampling)
        ends.append(end.detach())
    torch.testing.assert_close(ends[1], ends[0], atol=1e-3, rtol=1e-3)


@pytest.mark.compile
def test_the_network_is_one_graph(network):
    """Nothing in it waits for the device or stops the compiler."""
    batch = sequences(5, 9)
    latents = torch.randn(len(batch["places"]), 4)
    found = torch._dynamo.explain(network)(**batch, latents=latents, times=torch.tensor([0.3, 0.8]))
    assert found.graph_count == 1 and not found.break_reasons


def test_guidance_is_a_line_from_the_free_velocity_through_the_told_one(trained):
    twin = Twin.from_pretrained(trained[1], "cpu")
    ends = []
    for guidance in (0.0, 1.0, 3.0):
        *_, end = twin.follow([("a red circle", 0)], 0, (8, 8), FlowSampling(guidance, num_steps=1, solver="euler"))
        ends.append(end.detach())
    assert torch.allclose(ends[2], ends[0] + 3 * (ends[1] - ends[0]), atol=1e-4)


def test_wrong_arguments_are_refused(trained):
    twin = Twin.from_pretrained(trained[1], "cpu")
    for wrong, message in (
        ({"prompt": " "}, "empty"),
        ({"prompt": "a red circle " * 60}, "too long"),
        ({"prompt": None, "size": (36, 32)}, "never trained"),
        ({"prompt": None, "num_images": 0}, "start at 1"),
        ({"prompt": None, "num_steps": 0}, "at least 1"),
    ):
        with pytest.raises(ValueError, match=message):
            twin.generate(**wrong)
    with pytest.raises(ValueError, match="not a 'plantain_twin'"):
        Twin.from_pretrained(ROOT / "checkpoints/shapes32", "cpu")


def test_latents_come_back_as_the_codes_that_they_were(trained):
    from data.pictures import to_images
    from data.shapes.source import Shapes

    space = Twin.from_pretrained(trained[1], "cpu").space
    source = Shapes(trained[0].data)
    images = to_images(np.stack([source[index].image for index in range(8)]))
    latents = space.encode(images)
    assert torch.equal(space.codes(latents, (8, 8)), space.tokenizer.encode(images))
    everything = space.encode(to_images(np.stack([source[index].image for index in range(64)])))
    assert torch.allclose(everything.mean(0), torch.zeros(4), atol=1e-4)
    assert torch.allclose(everything.std(0), torch.ones(4), atol=1e-3)


def test_sample_draws_with_a_twin_and_says_what_it_does_not_know(trained, tmp_path):
    def sample(*options: str) -> subprocess.CompletedProcess:
        command = [sys.executable, "sample.py", "a red circle", "--checkpoint", str(trained[1]), *options]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)

    done = sample("--out", str(tmp_path / "out.png"), "--steps", "2", "--solver", "euler", "--scale", "1")
    assert done.returncode == 0, done.stderr
    with Image.open(tmp_path / "out.png") as image:
        assert image.size == (32, 32) and image.info["num_steps"] == "2"
    done = sample("--film", str(tmp_path / "out.gif"), "--steps", "3", "--size", "32x32")
    assert done.returncode == 0 and done.stdout.endswith("(3 frames)\n"), done.stderr
    refused = sample("--temperature", "0.5")
    assert refused.returncode == 2 and "--temperature is nothing that a diffusion twin knows" in refused.stderr
    refused = sample("--steps", "0")
    assert refused.returncode == 2 and "num_steps is 0" in refused.stderr


def test_pixels_flow_as_latents_do(trained, tmp_path):
    """The variant without an image tokenizer between: pictures come back exactly, and it trains, saves and draws."""
    from data.pictures import to_images
    from data.shapes.source import Shapes
    from diffusion.twin import PixelSpace

    config = replace(
        trained[0],
        space="pixels",
        foretells="data",
        loop=replace(trained[0].loop, out=str(tmp_path / "run"), num_steps=2),
    )
    twin = Twin.from_pretrained(train(config), "cpu")
    assert isinstance(twin.space, PixelSpace) and twin.network.foretells == "data"
    images = to_images(np.stack([Shapes(config.data)[index].image for index in range(3)]))
    latents = twin.space.encode(images)
    assert latents.shape == (3 * 64, 48)
    assert torch.allclose(twin.space.paint(latents, (8, 8)), images, atol=1e-5)
    drawn = twin.generate("a red circle", num_steps=2)
    assert drawn.images[0].size == (32, 32) and drawn.codes[0].shape == (8, 8)


def test_a_velocity_follows_from_the_data_that_is_foretold():
    batch = sequences(5, 9)
    network = FlowTransformer(SMALL, VOCABULARY, 4, foretells="data").eval()
    latents = torch.randn(len(batch["places"]), 4)
    with torch.no_grad():
        torch.nn.init.normal_(network.head.weight)
        velocities = network(**batch, latents=latents, times=torch.tensor([0.5, 0.99]))
        network.foretells = "velocity"
        data = network(**batch, latents=latents, times=torch.tensor([0.5, 0.99]))
    first = latents.shape[0] // 2
    assert torch.allclose(velocities[:first], (data - latents)[:first] / 0.5, atol=1e-4)
    assert torch.allclose(velocities[first:], (data - latents)[first:] / 0.05, atol=1e-4)  # the time left is bounded
