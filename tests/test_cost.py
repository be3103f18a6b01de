"""What a picture is said to cost, beside torch's own counter of operations."""

from pathlib import Path

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from diffusion.flow import FlowSampling, num_passes
from diffusion.network import flops
from metrics.cost import cache_bytes, flops_of_codes, flops_of_flow, num_guided, parameters, passes_of_codes, timings
from model import Plantain
from model.generate import draw_images
from model.request import Guide, ImageRequest
from model.sampling import SamplingConfig
from model.streams import open_image
from tokenizer.sequence import TextSegment

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def plantain() -> Plantain:
    return Plantain.from_pretrained(ROOT / "checkpoints/shapes32", "cpu")


@pytest.mark.parametrize("sampling", [SamplingConfig(), SamplingConfig(guidance=2.0), SamplingConfig(2.0, 0.25)])
def test_operations_of_a_picture_are_those_that_torch_counts(plantain, sampling):
    prompt = plantain.text_tokenizer.encode("a small red circle above a large green cross")
    told = [TextSegment(prompt)]
    # A guide as long as the condition: a batch is as long as its longest sequence, which the counter sees. In other
    # words, or its prefix would not be read a second time.
    guides = [Guide([TextSegment(prompt[::-1])], 1 - sampling.guidance)] if sampling.guidance != 1 else []
    counter = FlopCounterMode(display=False)
    with sdpa_kernel(SDPBackend.MATH), counter:
        for _ in draw_images(
            plantain.transformer, plantain.vocabulary, [ImageRequest(told, (8, 8), sampling, 0, 0, guides)]
        ):
            pass
    config = plantain.transformer.config
    prefix = len(open_image(told, (8, 8), plantain.vocabulary, config.positions)[0].ids)
    assert flops_of_codes(config, plantain.vocabulary, prefix, prefix, 64, sampling) == counter.get_total_flops()


def test_guidance_costs_a_pass_for_each_code_that_it_guides():
    assert passes_of_codes(SamplingConfig(), 64) == 64
    assert passes_of_codes(SamplingConfig(guidance=3.0), 64) == 128
    assert passes_of_codes(SamplingConfig(guidance=3.0, guidance_until=0.3), 64) == 64 + num_guided(
        SamplingConfig(guidance=3.0, guidance_until=0.3), 64
    )
    assert num_guided(SamplingConfig(guidance=3.0, guidance_until=0.3), 64) == 20


def test_operations_of_a_flow_are_those_of_its_passes(plantain):
    config = plantain.transformer.config
    shape = config, 568, 4
    told, free = (flops(config, 568, length, 64, 8) for length in (90, 70))
    unguided = FlowSampling(1.0, num_steps=4)
    assert flops_of_flow(*shape, 90, 70, 64, unguided) == num_passes(unguided) * told == 7 * told
    assert flops_of_flow(*shape, 90, 70, 64, FlowSampling(2.0, num_steps=4)) == 7 * told + 7 * free
    assert flops_of_flow(*shape, 90, 70, 64, FlowSampling(0.0, num_steps=4)) == 7 * free
    half = FlowSampling(2.0, guidance_from=0.5, num_steps=4, solver="euler")
    assert flops_of_flow(*shape, 90, 70, 64, half) == 4 * told + 2 * free


def test_parameters_are_counted_part_by_part(plantain):
    parts = parameters(plantain.transformer)
    assert set(parts) == {"embedding", "blocks", "norm", "head"}
    assert sum(parts.values()) == sum(parameter.numel() for parameter in plantain.transformer.parameters())


def test_the_cache_is_as_large_as_the_one_that_is_made(plantain):
    cache = plantain.transformer.new_cache(1, 100)
    made = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
    assert cache_bytes(plantain.transformer.config, 100, 4) == made


def test_ways_are_timed_in_turns():
    order: list[str] = []
    ways = {name: (lambda name=name: order.append(name)) for name in "ab"}
    found = timings(ways, 3, torch.device("cpu"))
    assert order == list("ab") * 4 and {name: len(seconds) for name, seconds in found.items()} == {"a": 3, "b": 3}
    assert len(timings(ways, 50, torch.device("cpu"), seconds=0.0)["a"]) == 2
