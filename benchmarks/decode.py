"""How long a picture takes, by decoding and batch size, in one run on one machine.

    python -m benchmarks.decode checkpoints/shapes32

All contestants draw pictures of the same prompts, one after the other in every round, and the figure that is compared
is the median over rounds of the ratio to sequential decoding in the same round. They are

    naive           sequential decoding without a cache: every code reads the whole sequence again
    sequential      a code at each pass
    jacobi          a window at each pass; the same pictures
    transformers    `generate` of a Qwen3 of the same shape with random weights and guidance, where it is installed

Also measured: the passes that Jacobi decoding needs for a code, the image tokenizer's share of the time, and the floor:
the bytes of the weights that a pass reads over the bandwidth at which this machine reads memory.
"""

import argparse
import importlib.util
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch


def main() -> None:
    """Measures a checkpoint and writes the figures into docs/results/."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", help="folder or hub id")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 8, 32], help="pictures at once")
    parser.add_argument("--rounds", type=int, default=5, help="how often all contestants run (default: 5)")
    parser.add_argument("--threads", type=int, help="of a CPU (default: torch's)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, help="default: docs/results/decode-<checkpoint's name>.json")
    arguments = parser.parse_args()

    from metrics.record import RESULTS, record
    from model import Plantain

    started = time.perf_counter()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    plantain = Plantain.from_pretrained(arguments.checkpoint, arguments.device)
    figures: dict[str, Any] = {"batches": {}, "floor": floor(plantain)}
    for batch_size in arguments.batch_sizes:
        figures["batches"][batch_size] = measure(plantain, batch_size, arguments.rounds, arguments.seed)
        print(batch_size, figures["batches"][batch_size], flush=True)
    config = {
        "checkpoint": arguments.checkpoint,
        "rounds": arguments.rounds,
        "threads": torch.get_num_threads(),
        "guidance": plantain.recipe.guidance,
        "temperature": plantain.recipe.temperature,
    }
    out = arguments.out or RESULTS / f"decode-{Path(arguments.checkpoint).name}.json"
    record(out, figures, arguments.seed, config, time.perf_counter() - started)
    print(f"wrote {out}")


def measure(plantain: Any, batch_size: int, rounds: int, seed: int) -> dict[str, Any]:
    """Seconds a picture of each contestant, and their ratios to sequential decoding.

    Raises:
        RuntimeError: Two contestants that should draw the same pictures did not.
    """
    from model.generate import ImageRequest, draw_images, jacobi_window, open_image
    from sample import DEMO

    texts = [DEMO[number % len(DEMO)] for number in range(batch_size)]
    grid = plantain.grids[0]
    requests = [
        ImageRequest(plantain._condition(text, grid), grid, plantain.recipe, seed, number)
        for number, text in enumerate(texts)
    ]
    window = jacobi_window(plantain.device, requests)
    passes = {}

    def draw(name: str, width: int) -> torch.Tensor:
        drawings = list(draw_images(plantain.transformer, plantain.vocabulary, requests, width))
        passes[name] = len(drawings) / (grid[0] * grid[1])
        return drawings[-1].codes

    contestants: dict[str, Callable[[], torch.Tensor | None]] = {
        "sequential": lambda: draw("sequential", 1),
        "jacobi": lambda: draw("jacobi", max(window, 2)),
        "naive": lambda: naive(plantain, requests),
    }
    if importlib.util.find_spec("transformers") is not None:
        opened = (open_image(r.segments, grid, plantain.vocabulary, "line")[0] for r in requests)
        contestants["transformers"] = qwen3(plantain, [len(prefix.ids) for prefix in opened])
    seconds: dict[str, list[float]] = {name: [] for name in (*contestants, "tokenizer")}
    for number in range(rounds + 1):
        drawn = {}
        for name, contestant in contestants.items():
            took, drawn[name] = clock(contestant, plantain.device)
            seconds[name].append(took)
        codes = drawn["sequential"]
        if any(not torch.equal(drawn[name], codes) for name in ("jacobi", "naive")):
            raise RuntimeError("the decodings drew different pictures: nothing was measured")
        decode = partial(plantain.image_tokenizer.decode, codes.view(batch_size, *grid))
        seconds["tokenizer"].append(clock(decode, plantain.device)[0])
        if not number:  # the first round warms up
            seconds = {name: [] for name in seconds}
    reference = seconds["sequential"]
    return {
        "seconds_per_picture": {name: median(values) / batch_size for name, values in seconds.items()},
        "time_of_sequential": {
            name: median(value / base for value, base in zip(values, reference, strict=True))
            for name, values in seconds.items()
        },
        "passes_per_code": passes,
        "window": max(window, 2),
    }


def clock(work: Callable[[], Any], device: torch.device) -> tuple[float, Any]:
    """Seconds until all of the work is done, and what it gave."""
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    wait()
    started = time.perf_counter()
    result = work()
    wait()
    return time.perf_counter() - started, result


@torch.inference_mode()
def naive(plantain: Any, requests: Sequence[Any]) -> torch.Tensor:
    """Sequential decoding that reads every sequence from its beginning for each code."""
    from model.generate import choice_of, choose, open_streams, settle

    transformer, vocabulary = plantain.transformer, plantain.vocabulary
    streams = open_streams(requests, vocabulary, transformer.config.positions, 2, plantain.device)
    choice = choice_of(requests, streams, vocabulary.image_block)
    counts = torch.zeros(len(requests), dtype=torch.long, device=plantain.device)
    longest, most = int(streams.last.max()) + 1, int(streams.num_codes.max())
    for step in range(most):
        reach = longest + step
        hidden = transformer(streams.ids[:, :reach], streams.positions[:, :reach])
        slots = streams.last[:, None] + counts[streams.owner, None]
        last = hidden.gather(1, slots[:, :, None].expand(-1, -1, hidden.shape[-1]))
        drawn, _ = choose(transformer, vocabulary.image_block, choice, last, slots[: len(requests)] + 1)
        counts = settle(streams, slots + 1, drawn, counts)
    places = streams.last[: len(requests), None] + 1 + torch.arange(most, device=plantain.device)
    return streams.ids[: len(requests)].gather(1, places) - vocabulary.image_start


def qwen3(plantain: Any, lengths: Sequence[int]) -> Callable[[], None]:
    """`transformers`' sampling loop with guidance, on random weights of our model's shape."""
    hf = importlib.import_module("transformers")
    ours = plantain.transformer.config
    config = hf.Qwen3Config(
        vocab_size=plantain.vocabulary.size,
        hidden_size=ours.dim,
        intermediate_size=ours.mlp_dim,
        num_hidden_layers=ours.depth,
        num_attention_heads=ours.num_heads,
        num_key_value_heads=ours.num_kv_heads,
        head_dim=ours.head_dim,
        max_position_embeddings=ours.max_length,
        tie_word_embeddings=False,
    )
    model = hf.Qwen3ForCausalLM(config).eval().to(plantain.device, plantain.transformer.head.weight.dtype)
    num_codes = plantain.grids[0][0] * plantain.grids[0][1]
    longest = max(lengths)
    prompt = torch.randint(10, 100, (len(lengths), longest), device=plantain.device)
    mask = torch.stack([torch.arange(longest) >= longest - length for length in lengths]).long().to(plantain.device)
    settings = hf.GenerationConfig(
        do_sample=True,
        guidance_scale=plantain.recipe.guidance,
        temperature=plantain.recipe.temperature,
        top_k=0,
        min_new_tokens=num_codes,
        max_new_tokens=num_codes,
        pad_token_id=0,
        cache_implementation="static",
    )

    def work() -> None:
        model.generate(prompt, attention_mask=mask, generation_config=settings)

    return work


def floor(plantain: Any) -> dict[str, float]:
    """Seconds that reading the weights of one pass takes at the bandwidth measured here."""
    head = plantain.transformer.head.weight
    num_read = sum(part.numel() for part in plantain.transformer.blocks.parameters())
    num_bytes = (num_read + head[plantain.vocabulary.image_block].numel()) * head.element_size()
    large = torch.ones(2**26, device=plantain.device)  # 256 MiB: far beyond any cache
    speeds = [large.numel() * large.element_size() / clock(large.sum, plantain.device)[0] for _ in range(7)]
    bandwidth = max(speeds)
    return {"bytes_a_pass": num_bytes, "bytes_a_second": bandwidth, "seconds_a_pass": num_bytes / bandwidth}


if __name__ == "__main__":
    main()
