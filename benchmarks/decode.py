"""How long a picture takes, by decoding and batch size, in one run on one machine.

    python -m benchmarks.decode checkpoints/shapes32
    python -m benchmarks.decode 111M --grid 8x8

All contestants draw pictures of the same prompts, one after the other in every round; what is compared is the median
over rounds of the ratio of two in the same round. They are

    naive           sequential decoding without a cache: every code reads the whole sequence again
    sequential      a code at each pass
    jacobi          a window at each pass; the same pictures
    compiled ...    either of them with compiled passes
    int8            compiled sequential decoding with rounded weights, which draws other pictures
    transformers    `generate` of a Qwen3 with the same weights and guidance, where it is installed, in the same
                    precision and in bf16; a static cache and, on CUDA, its own compiled forward pass

Also measured: the passes that Jacobi decoding needs for a code, the image tokenizer's share of the time, the most
memory that was in use, and the floor of a pass: the bytes of weights and cache that it reads over the bandwidth at
which this machine reads memory and, on CUDA, the launches of its kernels.

A size in place of a checkpoint stands for random weights of LlamaGen's shapes, rounded to bf16 as checkpoints are, and
15,360 codes; guesses are then always wrong, so that only sequential decoding is measured.
"""

import argparse
import copy
import importlib.util
import resource
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch

# dim, depth, heads, width of the MLP. Source: Sun et al., "Autoregressive Model Beats Diffusion", table 1.
SIZES = {"111M": (768, 12, 12, 2048), "343M": (1024, 24, 16, 2816), "775M": (1280, 36, 20, 3456)}


def main() -> None:
    """Measures a model and writes the figures into docs/results/."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help=f"folder or hub id of a checkpoint, or a size: {', '.join(SIZES)}")
    parser.add_argument("--grid", default="16x16", help="rows and columns of codes, for a size (default: 16x16)")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 8, 32], help="pictures at once")
    parser.add_argument("--rounds", type=int, default=5, help="how often all contestants run (default: 5)")
    parser.add_argument("--skip", nargs="*", default=[], help="contestants to leave out")
    parser.add_argument("--threads", type=int, help="of a CPU (default: torch's)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, help="default: docs/results/decode-<model's name>.json")
    arguments = parser.parse_args()

    from metrics.record import RESULTS, record

    started = time.perf_counter()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    plantain = load(arguments.model, arguments.grid, arguments.device)
    figures: dict[str, Any] = {"batches": {}, "bytes_a_second": bandwidth(plantain.device)}
    config = {
        "model": arguments.model,
        "grid": plantain.grids[0],
        "rounds": arguments.rounds,
        "threads": torch.get_num_threads(),
        "guidance": plantain.recipe.guidance,
        "temperature": plantain.recipe.temperature,
        "dtype": str(plantain.transformer.head.weight.dtype),
    }
    out = arguments.out or RESULTS / f"decode-{Path(arguments.model).name}.json"
    for batch_size in arguments.batch_sizes:
        figures["batches"][batch_size] = measure(plantain, batch_size, arguments.rounds, arguments.seed, arguments.skip)
        for name, values in figures["batches"][batch_size]["seconds"].items():
            print(f"{batch_size:4} pictures at once, {name}: {median(values) / batch_size:.4f} s a picture", flush=True)
        record(out, figures, arguments.seed, config, time.perf_counter() - started)  # what a later size can't lose
    print(f"wrote {out}")


def load(name: str, grid: str, device: str) -> Any:
    """A checkpoint, or a model of one of LlamaGen's shapes with random weights that draws at guidance 2."""
    from model import Plantain
    from model.sampling import SamplingConfig
    from model.transformer import ModelConfig, Transformer
    from runtime.device import resolve_device
    from sample import DEMO
    from tokenizer.autoencoder import AutoencoderConfig
    from tokenizer.image import ImageTokenizer, ImageTokenizerConfig
    from tokenizer.quantizer import FSQConfig
    from tokenizer.text import TextTokenizer
    from tokenizer.vocabulary import Vocabulary

    if name not in SIZES:
        return Plantain.from_pretrained(name, device).compile()
    torch.manual_seed(0)
    where = resolve_device(device)
    rows, columns = (int(side) for side in grid.split("x"))
    stride_16 = AutoencoderConfig(patch=4, widths=(64, 128, 256))
    image_tokenizer = ImageTokenizer(ImageTokenizerConfig(stride_16, FSQConfig(levels=(8, 8, 8, 6, 5))))
    text_tokenizer = TextTokenizer.train(DEMO * 2, 320)
    vocabulary = Vocabulary(text_tokenizer.num_text, image_tokenizer.codebook_size)
    dim, depth, heads, mlp_dim = SIZES[name]
    config = ModelConfig(dim, depth, heads, heads, 64, mlp_dim, max_length=rows * columns + 64)
    transformer = Transformer(config, vocabulary.size).to(where, torch.bfloat16)
    return Plantain(
        transformer if where.type == "cuda" else transformer.float(),
        image_tokenizer.to(where),
        text_tokenizer,
        SamplingConfig(guidance=2.0),
        [(rows, columns)],
    ).compile()


def measure(plantain: Any, batch_size: int, rounds: int, seed: int, skipped: Sequence[str]) -> dict[str, Any]:
    """Seconds that each contestant took for the batch in each round, passes that it needed for a code, the floor of a
    pass of sequential decoding, the most bytes of memory that were in use, and the share of codes that are those of
    sequential decoding: in bf16, kernels of other shapes round otherwise.

    Raises:
        RuntimeError: In fp32, two contestants that should draw the same pictures did not.
    """
    from model.engine import Engine
    from model.generate import draw_images, jacobi_window
    from model.streams import open_image
    from sample import DEMO

    grid = plantain.grids[0]
    requests = plantain.requests([DEMO[number % len(DEMO)] for number in range(batch_size)], seed=seed)
    window = max(2, jacobi_window(plantain.device, requests))
    passes = {}

    def drawing(name: str, width: int, compiled: bool = False, transformer: Any = None) -> Callable[[], torch.Tensor]:
        engine = Engine() if compiled else None

        def work() -> torch.Tensor:
            model = transformer or plantain.transformer, plantain.vocabulary
            drawings = list(draw_images(*model, requests, width, plantain.draft, engine))
            passes[name] = len(drawings) / (grid[0] * grid[1])
            return drawings[-1].codes

        return work

    rounded = copy.deepcopy(plantain.transformer)
    rounded.quantize()
    contestants: dict[str, Callable[[], torch.Tensor | None]] = {
        "sequential": drawing("sequential", 1),
        "compiled sequential": drawing("compiled sequential", 1, compiled=True),
        "int8": drawing("int8", 1, compiled=True, transformer=rounded),
        "naive": lambda: naive(plantain, requests),
    }
    if plantain.draft is not None:
        contestants["jacobi"] = drawing("jacobi", window)
        contestants["compiled jacobi"] = drawing("compiled jacobi", window, compiled=True)
    if importlib.util.find_spec("transformers") is not None:
        opened = (open_image(request.segments, grid, plantain.vocabulary, "line")[0] for request in requests)
        lengths, dtype = [len(prefix.ids) for prefix in opened], plantain.transformer.head.weight.dtype
        contestants["transformers"] = qwen3(plantain, lengths, dtype)
        if dtype != torch.bfloat16:
            contestants["transformers bf16"] = qwen3(plantain, lengths, torch.bfloat16)
    contestants = {name: work for name, work in contestants.items() if name not in skipped}
    seconds: dict[str, list[float]] = {name: [] for name in (*contestants, "tokenizer")}
    exact, same = plantain.transformer.head.weight.dtype == torch.float32, {}
    if plantain.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    for number in range(rounds + 1):
        drawn = {}
        for name, contestant in contestants.items():
            took, drawn[name] = clock(contestant, plantain.device)
            seconds[name].append(took)
        codes = drawn["sequential"]
        others = {name: found for name, found in drawn.items() if found is not None and name != "int8"}
        same = {name: (found == codes).float().mean().item() for name, found in others.items()}
        if exact and (different := [name for name, share in same.items() if share < 1]):
            raise RuntimeError(f"{', '.join(different)} drew other pictures than sequential: nothing was measured")
        decode = partial(plantain.image_tokenizer.decode, codes.view(batch_size, *grid))
        seconds["tokenizer"].append(clock(decode, plantain.device)[0])
        if not number:  # the first round warms up and compiles
            seconds = {name: [] for name in seconds}
    figures = {"seconds": seconds, "passes_per_code": passes, "window": window, "peak_bytes": peak(plantain.device)}
    figures["same_codes"] = same
    figures["bytes_a_pass"] = bytes_a_pass(plantain, 2 * batch_size if plantain.recipe.guidance != 1 else batch_size)
    if "compiled sequential" in contestants and plantain.device.type == "cuda":
        figures["launches"] = launches(contestants["compiled sequential"], grid[0] * grid[1])
    return figures


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
    from model.generate import choice_of, choose
    from model.streams import open_streams

    transformer, vocabulary = plantain.transformer, plantain.vocabulary
    streams = open_streams(requests, vocabulary, transformer.config.positions, plantain.device, padding=0)
    choice = choice_of(requests, streams, vocabulary.image_block)
    longest, most = int(streams.last.max()) + 1, int(streams.num_codes.max())
    for step in range(most):
        reach = longest + step
        hidden = transformer(streams.ids[:, :reach], streams.positions[:, :reach])
        slots = streams.last[:, None] + step
        last = hidden.gather(1, slots[:, :, None].expand(-1, -1, hidden.shape[-1]))
        drawn, _ = choose(transformer, vocabulary.image_block, choice, last, slots[: len(requests)] + 1)
        streams.ids.scatter_(1, slots + 1, drawn[streams.owner])
    places = streams.last[: len(requests), None] + 1 + torch.arange(most, device=plantain.device)
    return streams.ids[: len(requests)].gather(1, places) - vocabulary.image_start


# Our names of a block's weights, and Qwen3's in `transformers`.
_NAMES = {
    "attention_norm": "input_layernorm",
    "attention.query": "self_attn.q_proj",
    "attention.key": "self_attn.k_proj",
    "attention.value": "self_attn.v_proj",
    "attention.output": "self_attn.o_proj",
    "attention.query_norm": "self_attn.q_norm",
    "attention.key_norm": "self_attn.k_norm",
    "mlp_norm": "post_attention_layernorm",
    "mlp.gate": "mlp.gate_proj",
    "mlp.up": "mlp.up_proj",
    "mlp.down": "mlp.down_proj",
}


def exported(transformer: Any) -> Any:
    """The transformer as a Qwen3 of `transformers`: the same function where positions are a line, else as much work."""
    hf = importlib.import_module("transformers")
    ours = transformer.config
    config = hf.Qwen3Config(
        vocab_size=transformer.embedding.num_embeddings,
        hidden_size=ours.dim,
        intermediate_size=ours.mlp_dim,
        num_hidden_layers=ours.depth,
        num_attention_heads=ours.num_heads,
        num_key_value_heads=ours.num_kv_heads,
        head_dim=ours.head_dim,
        max_position_embeddings=ours.max_length,
        rms_norm_eps=ours.norm_eps,
        rope_theta=ours.rope_theta,
        tie_word_embeddings=False,
    )
    outside = {"embedding.weight": "model.embed_tokens.weight", "norm.weight": "model.norm.weight"}
    weights = {}
    for name, weight in transformer.state_dict().items():
        if name.startswith("blocks."):
            _, layer, rest = name.split(".", 2)
            weights[f"model.layers.{layer}.{_NAMES[rest.removesuffix('.weight')]}.weight"] = weight
        else:
            weights[outside.get(name, "lm_head.weight")] = weight
    model = hf.Qwen3ForCausalLM(config).eval().to(transformer.head.weight.device, transformer.head.weight.dtype)
    model.load_state_dict(weights)
    return model


def qwen3(plantain: Any, lengths: Sequence[int], dtype: torch.dtype) -> Callable[[], None]:
    """`transformers`' sampling loop with guidance."""
    hf, model = importlib.import_module("transformers"), exported(plantain.transformer).to(dtype)
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


def bandwidth(device: torch.device) -> float:
    """Bytes a second at which this machine reads memory."""
    large = torch.ones(2**26, device=device)  # 256 MiB: far beyond any cache
    return max(large.nbytes / clock(large.sum, device)[0] for _ in range(7))


def bytes_a_pass(plantain: Any, streams: int) -> int:
    """What a compiled pass reads: the matrices as narrow as they are kept, and the whole cache."""
    transformer, config = plantain.transformer, plantain.transformer.config
    head = transformer.head.weight[plantain.vocabulary.image_block]
    weights = sum(part.nbytes for part in transformer.blocks.parameters()) + head.nbytes
    weights //= 1 if transformer.head.narrow is None else 2
    slots = streams * config.depth * 2 * config.num_kv_heads * config.max_length
    return weights + slots * config.head_dim * transformer.embedding.weight.element_size()


def peak(device: torch.device) -> int:
    """The most bytes in use: of the GPU's memory since it was last asked to count, else of this process."""
    return (
        torch.cuda.max_memory_allocated()
        if device.type == "cuda"
        else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    )


def launches(draw: Callable[[], Any], num_passes: int) -> dict[str, float]:
    """Kernels of a pass, and seconds that the GPU needs to start one of them within a graph."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as profiled:
        draw()
        torch.cuda.synchronize()
    kernels = sum(event.count for event in profiled.key_averages() if not event.key.startswith("Mem"))
    graph, number = torch.cuda.CUDAGraph(), torch.zeros(1, device="cuda")
    number.add_(1)
    torch.cuda.synchronize()
    with torch.cuda.graph(graph):
        for _ in range(1000):
            number.add_(1)
    seconds = min(clock(graph.replay, number.device)[0] for _ in range(5)) / 1000
    return {"kernels_a_pass": kernels / num_passes, "seconds_a_kernel": seconds}


if __name__ == "__main__":
    main()
