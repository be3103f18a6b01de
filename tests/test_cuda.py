"""On a GPU: what the CPU shows, the GPU shows too. Run with `pytest -m cuda`; skipped where there is none."""

import pytest
import torch

from model.sampling import SamplingConfig, draw, gumbel_noise, stack

pytestmark = pytest.mark.cuda


def arguments(device: str) -> list[torch.Tensor]:
    return [torch.arange(4, device=device), torch.arange(4, device=device) % 2, torch.arange(4, device=device) * 7]


def test_the_noise_is_the_same_on_gpu_and_cpu():
    ids = torch.arange(5000)
    on_cpu = gumbel_noise(*arguments("cpu"), ids)
    on_gpu = gumbel_noise(*arguments("cuda"), ids.cuda()).cpu()
    torch.testing.assert_close(on_gpu, on_cpu, rtol=1e-6, atol=1e-6)


def test_equal_logits_draw_equal_ids_on_gpu_and_cpu():
    logits = torch.randn(4, 1000, generator=torch.Generator().manual_seed(0))
    config = SamplingConfig(temperature=0.8, top_k=100, top_p=0.9, min_p=0.01)
    ids = torch.arange(384, 1384)
    on_cpu = draw(logits, stack([config]), *arguments("cpu"), ids)
    on_gpu = draw(logits.cuda(), stack([config], "cuda"), *arguments("cuda"), ids.cuda())
    assert torch.equal(on_cpu, on_gpu.cpu())


def test_a_model_draws_the_same_codes_in_fp32_on_gpu_and_cpu(tiny, tmp_path):
    from model import Plantain

    tiny().save_pretrained(tmp_path / "model")
    prompts = ["a red circle", "two large green squares"]
    drawn = {
        device: Plantain.from_pretrained(tmp_path / "model", device, "fp32").generate(
            prompts, num_images=3, guidance=2.0
        )
        for device in ("cpu", "cuda")
    }
    for on_cpu, on_gpu in zip(drawn["cpu"].codes, drawn["cuda"].codes, strict=True):
        assert (on_cpu == on_gpu).all()


def test_bf16_is_the_default_and_pictures_do_not_depend_on_the_batch(tiny, tmp_path):
    from model import Plantain

    tiny().save_pretrained(tmp_path / "model")
    plantain = Plantain.from_pretrained(tmp_path / "model", "cuda")
    assert plantain.transformer.head.weight.dtype == torch.bfloat16
    assert plantain.image_tokenizer.decoder.last_weight.dtype == torch.float32
    assert len(plantain.generate("a red circle", num_images=5).images) == 5


def test_captured_passes_draw_what_plain_ones_draw_again_and_again_and_side_by_side(tiny):
    plain, compiled = tiny(), tiny().compile()
    for plantain in (plain, compiled):
        plantain.transformer.cuda()
        plantain.image_tokenizer.cuda()
    for decoding in ("sequential", "jacobi"):
        for count in (4, 3, 4):  # three are padded to four; the second four find a session that was kept
            settings = dict(num_images=count, seed=count, decoding=decoding)
            drawn, expected = (one.generate("a red circle", **settings).codes for one in (compiled, plain))
            assert all((left == right).all() for left, right in zip(drawn, expected, strict=True))
    streams = [compiled.stream("a red circle", seed=seed, decoding="sequential") for seed in range(2)]
    both = [list(events) for events in zip(*streams, strict=True)]  # one step of each in turn
    for seed, event in enumerate(both[-1]):
        (expected,) = plain.generate("a red circle", seed=seed).codes
        assert event.finished and event.codes.tolist() == expected.flatten().tolist()


def test_a_drawing_that_is_given_up_frees_its_session(tiny):
    compiled = tiny().compile()
    compiled.transformer.cuda()
    compiled.image_tokenizer.cuda()
    for _ in range(200):
        stream = compiled.stream("a red circle", decoding="sequential")
        next(stream)
        stream.close()
    assert compiled.engine is not None and len(compiled.engine._idle) == 1


def test_everything_that_a_model_can_do_comes_out_as_on_a_cpu(tiny, tmp_path):
    import numpy as np
    from PIL import Image

    from model import Plantain

    tiny(max_length=160, loudness=0.3).save_pretrained(tmp_path / "model")
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 12, 3), dtype=np.uint8))
    mask = Image.new("L", (12, 8), 0)
    mask.paste(255, (4, 0, 12, 8))
    results = {}
    for device in ("cpu", "cuda"):
        plantain = Plantain.from_pretrained(tmp_path / "model", device, "fp32")
        drawn = [
            plantain.edit(picture, "make it red", num_images=2, image_guidance=1.5, guidance=3.0),
            plantain.inpaint(picture, mask, "a ring", num_images=2),
            plantain.generate("a ring", num_images=3, negative="a square", guidance_until=0.5),
        ]
        codes = [grid.tolist() for generation in drawn for grid in generation.codes]
        results[device] = codes, plantain.ask(picture, "how many?")
    assert results["cuda"] == results["cpu"]


def test_guidance_that_ends_early_is_captured_as_a_graph_of_its_own(tiny):
    plain, compiled = tiny(), tiny().compile()
    for plantain in (plain, compiled):
        plantain.transformer.cuda()
        plantain.image_tokenizer.cuda()
    for decoding in ("sequential", "jacobi"):
        for seed in range(3):
            settings = dict(num_images=2, seed=seed, decoding=decoding, guidance_until=0.5, size=(8, 12))
            drawn, expected = (one.generate("a red circle", **settings).codes for one in (compiled, plain))
            assert all((left == right).all() for left, right in zip(drawn, expected, strict=True))


def test_a_twin_and_the_judges_agree_with_the_cpu():
    from copy import deepcopy
    from pathlib import Path

    import numpy as np

    from diffusion.flow import FlowSampling
    from diffusion.network import FlowTransformer
    from diffusion.twin import LatentSpace, Twin
    from metrics.extractors import features_of, open_extractor
    from model import Plantain
    from model.transformer import ModelConfig

    plantain = Plantain.from_pretrained(Path(__file__).parent.parent / "checkpoints/shapes32", "cpu")
    network = FlowTransformer(ModelConfig(64, 2, 2, 1, 32, 128, 128), plantain.vocabulary, 4)
    torch.nn.init.normal_(network.head.weight, std=0.1)
    drawn = {}
    for device in ("cpu", "cuda"):
        tokenizer = deepcopy(plantain.image_tokenizer).to(device)
        space = LatentSpace(tokenizer, torch.zeros(4, device=device), torch.ones(4, device=device))
        text = plantain.text_tokenizer
        twin = Twin(deepcopy(network).to(device), space, text, FlowSampling(num_steps=4), [(8, 8)])
        drawn[device] = twin.generate(["a red circle", "a large green cross"], num_images=2)
        if device == "cuda":
            captured = twin.compile().generate(["a red circle", "a large green cross"], num_images=2)
    assert np.mean(np.stack(drawn["cpu"].codes) == np.stack(drawn["cuda"].codes)) > 0.95
    assert np.mean(np.stack(captured.codes) == np.stack(drawn["cuda"].codes)) > 0.95
    pixels = np.stack([np.asarray(image) for image in drawn["cpu"].images])
    left, right = (features_of(open_extractor("random", device), pixels) for device in ("cpu", "cuda"))
    torch.testing.assert_close(left, right, atol=1e-3, rtol=1e-3)


def test_pictures_have_the_same_codes_on_gpu_and_cpu():
    """A GPU rounds what convolutions multiply to 10 bits unless it is told not to."""
    from pathlib import Path

    import numpy as np

    from data.pictures import to_images
    from data.shapes.source import Shapes, ShapesConfig
    from tokenizer.image import ImageTokenizer

    tokenizer = ImageTokenizer.from_pretrained(Path(__file__).parent.parent / "checkpoints/shapes32")
    source = Shapes(ShapesConfig(64, image_size=32, world="shapes32"))
    images = to_images(np.stack([source[index].image for index in range(64)]))
    on_cpu = tokenizer.encode(images)
    on_gpu = tokenizer.cuda().encode(images.cuda()).cpu()
    assert (on_cpu == on_gpu).float().mean() > 0.9995


@pytest.mark.compile
def test_training_compiled_in_bf16_learns_and_exports(tmp_path):
    import json
    from pathlib import Path

    from model import Plantain
    from runtime.loop import train
    from train import load_runs

    root = Path(__file__).parent.parent
    config = load_runs(
        root / "configs/unified32.yaml",
        ["reading=null", "model.start=null", f"model.tokenizer={root / 'checkpoints/shapes32'}"]
        + ["model.network.depth=2", "model.data.num_examples=128", "model.validation.num_examples=16"]
        + ["model.num_samples=4", f"model.loop.out={tmp_path / 'run'}", "model.loop.num_steps=40"]
        + ["model.loop.log_every=10", "model.loop.optimizer.warmup_steps=5"],
    )[0]
    train(config)
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if line["part"] == "train"]
    assert len(losses) == 4 and losses[-1] < losses[0] - 0.5
    drawn = Plantain.from_pretrained(tmp_path / "run/checkpoint").generate("a red circle", num_images=2)
    assert len(drawn.images) == 2


def test_a_run_on_its_own_pictures_draws_judges_and_learns(tmp_path):
    import json
    from pathlib import Path

    from runtime.loop import train
    from train import load_runs

    root = Path(__file__).parent.parent
    config = load_runs(
        root / "configs/unified64-reinforced.yaml",
        [f"reinforced.start={root / 'checkpoints/unified64'}", "reinforced.num_samples=0", "reinforced.at_once=512"]
        + [f"reinforced.loop.out={tmp_path / 'run'}", "reinforced.loop.num_steps=2", "reinforced.loop.precision=bf16"]
        + ["reinforced.loop.num_workers=2"],
    )[0]
    train(config)
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if line["part"] == "train"]
    assert len(steps) == 2 and all(0.5 < line["right"] and line["gradient_norm"] > 0 for line in steps)
