"""The shipped model: however a picture is drawn, it is the same picture."""

from pathlib import Path

import numpy as np
import pytest
import torch

from data.shapes.source import ShapesConfig
from data.sources import open_source
from model import Plantain
from model.generate import draw_images
from model.sampling import SamplingConfig

CHECKPOINT = Path(__file__).parent.parent / "checkpoints" / "shapes32"
CHOICES = {
    "guidance": (1.0, 1.5, 2.0, 3.0),
    "guidance_until": (1.0, 1.0, 0.3),
    "temperature": (0.0, 0.45, 1.0, 1.3),
    "top_k": (0, 0, 20),
    "top_p": (1.0, 1.0, 0.9),
    "min_p": (0.0, 0.0, 0.02),
}


@pytest.mark.parametrize("count", [16, pytest.param(200, marks=pytest.mark.slow)])
def test_batched_alone_sequential_jacobi_and_streamed_pictures_are_the_same(count: int):
    plantain = Plantain.from_pretrained(CHECKPOINT, "cpu", "fp32")
    shapes = open_source(ShapesConfig(num_examples=count, split="val", image_size=32, world="shapes32", seed=3))
    rng = np.random.default_rng(0)
    settings = [{name: rng.choice(values).item() for name, values in CHOICES.items()} for _ in range(count)]
    seeds = rng.integers(0, 2**62, count).tolist()
    prompts = [shapes[index].text if index % 10 else None for index in range(count)]
    requests = [
        plantain.requests([prompt], 1, seed, SamplingConfig(**chosen))[0]
        for prompt, seed, chosen in zip(prompts, seeds, settings, strict=True)
    ]

    def draw(some: list, window: int) -> torch.Tensor:
        *_, last = draw_images(plantain.transformer, plantain.vocabulary, some, window, plantain.draft)
        return last.codes

    together = draw(requests, window=1)
    assert len({tuple(codes) for codes in together.tolist()}) > 0.9 * count
    assert torch.equal(draw(requests, window=5), together)
    for index, request in enumerate(requests):
        expected = together[index : index + 1]
        assert torch.equal(draw([request], window=1), expected)
        assert torch.equal(draw([request], window=int(rng.integers(2, 70))), expected)
        *_, event = plantain.stream(prompts[index], seed=seeds[index], **settings[index])
        assert event.finished and event.codes.tolist() == expected[0].tolist()
