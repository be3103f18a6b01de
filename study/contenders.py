"""The two contenders behind one face: how each is trained, loaded, asked for pictures, and what those cost."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from diffusion.flow import FlowSampling, num_passes
from diffusion.network import flops
from diffusion.objective import TwinTraining
from diffusion.twin import Twin
from metrics.cost import cache_bytes, flops_of_codes, flops_of_flow, parameters, passes_of_codes
from model.generate import jacobi_window
from model.objective import ModelTraining
from model.plantain import Plantain
from model.sampling import SamplingConfig
from study.plan import Contest, Plan
from tokenizer.sequence import ImageSegment, pack

Sampling = SamplingConfig | FlowSampling


@runtime_checkable
class Contender(Protocol):
    """What a study needs to know of a family of models."""

    name: str

    def training(self, plan: Plan, contest: Contest, seed: int, out: Path) -> Any:
        """The run that trains it."""
        ...

    def load(self, folder: Path) -> Any:
        """The trained model."""
        ...

    def tried(self, plan: Plan) -> Sequence[Any]:
        """Settings that are tried."""
        ...

    def ways(self, plan: Plan, chosen: Any) -> dict[str, Any]:
        """Settings whose pictures are judged, by name: those chosen, as `best`, and their variations."""
        ...

    def timed(self, plan: Plan, chosen: Any) -> dict[str, tuple[Any, dict[str, Any]]]:
        """Settings whose time is taken, and how; by name."""
        ...

    def draw(self, model: Any, prompts: Sequence[str], sampling: Any, **options: Any) -> Any:
        """Pictures with their codes."""
        ...

    def price(self, model: Any, sampling: Any, prompts: Sequence[str], **how: Any) -> dict[str, float]:
        """Operations and forward passes of a picture, and bytes of its cache, on average over prompts."""
        ...

    def size(self, model: Any, prompts: Sequence[str]) -> dict[str, Any]:
        """Parameters by part, and operations of a forward pass of training over one sequence."""
        ...


def _common(plan: Plan, contest: Contest, seed: int, out: Path) -> dict[str, Any]:
    """What both trainings have in common, which is all that is not the contender's own."""
    return {
        "loop": replace(plan.loop, out=str(out), num_steps=contest.num_steps, seed=seed),
        "data": contest.data,
        "validation": plan.validation,
        "tokenizer": plan.tokenizer,
        "network": contest.network,
        "caption_dropout": plan.caption_dropout,
        "num_samples": 0,
    }


class Autoregression:
    name = "autoregression"

    def training(self, plan: Plan, contest: Contest, seed: int, out: Path) -> ModelTraining:
        return ModelTraining(**_common(plan, contest, seed, out))

    def load(self, folder: Path) -> Plantain:
        return Plantain.from_pretrained(folder)

    def tried(self, plan: Plan) -> Sequence[SamplingConfig]:
        return plan.autoregression

    def ways(self, plan: Plan, chosen: SamplingConfig) -> dict[str, SamplingConfig]:
        return {"best": chosen, "unguided": replace(chosen, guidance=1.0)}

    def timed(self, plan: Plan, chosen: SamplingConfig) -> dict[str, tuple[SamplingConfig, dict[str, Any]]]:
        return {
            "sequential": (chosen, {"decoding": "sequential"}),
            "jacobi": (chosen, {"decoding": "jacobi"}),
        }

    def draw(self, model: Plantain, prompts: Sequence[str], sampling: SamplingConfig, **options: Any) -> Any:
        return model.generate(prompts, **asdict(sampling), **options)

    def price(self, model: Plantain, sampling: SamplingConfig, prompts: Sequence[str], **how: Any) -> dict[str, float]:
        grid, config = model.grids[0], model.transformer.config
        num_codes = grid[0] * grid[1]
        free, *prefixes = (_length(model, prompt) - num_codes - 2 for prompt in (None, *prompts))
        each = [flops_of_codes(config, model.vocabulary, prefix, free, num_codes, sampling) for prefix in prefixes]
        longest = max(prefixes) + num_codes + (free + num_codes if sampling.guidance != 1 else 0)
        cache = cache_bytes(config, longest, model.transformer.embedding.weight.element_size())
        operations, passes = sum(each) / len(each), passes_of_codes(sampling, num_codes)
        if how.get("decoding") == "jacobi":  # how many it needs is seen only when it draws
            calls = []
            self.draw(model, prompts, sampling, progress=lambda done, total: calls.append(done), **how)
            window = jacobi_window(model.device, model.requests(prompts, sampling=sampling))
            passes *= len(calls) / num_codes
            operations *= window * len(calls) / num_codes  # all of a window is read, what turns out wrong included
        return {"flops": operations, "passes": passes, "cache_bytes": cache}

    def size(self, model: Plantain, prompts: Sequence[str]) -> dict[str, Any]:
        grid, config = model.grids[0], model.transformer.config
        places, rows = grid[0] * grid[1], model.vocabulary.codebook_size
        # the last id is predicted and not read
        each = [flops(config, config.mlp_dim, _length(model, prompt) - 1, places, rows) for prompt in prompts]
        return {"parameters": parameters(model.transformer), "flops": sum(each) / len(each)}


def _length(model: Plantain, prompt: str | None) -> int:
    """Ids of a whole sequence: <begin>, the prompt, the picture with what opens and closes it, <end>."""
    (request,) = model.requests([prompt])
    picture = ImageSegment(np.zeros(request.grid, np.int64))
    return len(pack([*request.segments, picture], model.vocabulary, model.transformer.config.positions).ids)


class Diffusion:
    name = "diffusion"

    def training(self, plan: Plan, contest: Contest, seed: int, out: Path) -> TwinTraining:
        return TwinTraining(**_common(plan, contest, seed, out))

    def load(self, folder: Path) -> Twin:
        return Twin.from_pretrained(folder)

    def tried(self, plan: Plan) -> Sequence[FlowSampling]:
        return plan.diffusion

    def ways(self, plan: Plan, chosen: FlowSampling) -> dict[str, FlowSampling]:
        swept = {steps.name: replace(chosen, num_steps=steps.num_steps, solver=steps.solver) for steps in plan.sweep}
        return {"best": chosen, "unguided": replace(chosen, guidance=1.0)} | swept

    def timed(self, plan: Plan, chosen: FlowSampling) -> dict[str, tuple[FlowSampling, dict[str, Any]]]:
        return {name: (way, {}) for name, way in self.ways(plan, chosen).items() if name != "unguided"}

    def draw(self, model: Twin, prompts: Sequence[str], sampling: FlowSampling, **options: Any) -> Any:
        return model.generate(prompts, **asdict(sampling), **options)

    def price(self, model: Twin, sampling: FlowSampling, prompts: Sequence[str], **how: Any) -> dict[str, float]:
        grid, network = model.grids[0], model.network
        free, *lengths = (len(model.sequence(prompt, grid).ids) for prompt in (None, *prompts))
        shape = network.config, network.mlp_dim, len(model.space.mean)
        each = [flops_of_flow(*shape, length, free, grid[0] * grid[1], sampling) for length in lengths]
        return {"flops": sum(each) / len(each), "passes": num_passes(sampling), "cache_bytes": 0}

    def size(self, model: Twin, prompts: Sequence[str]) -> dict[str, Any]:
        grid, network = model.grids[0], model.network
        places, rows = grid[0] * grid[1], 2 * len(model.space.mean)
        lengths = [len(model.sequence(prompt, grid).ids) for prompt in prompts]
        each = [flops(network.config, network.mlp_dim, length, places, rows) for length in lengths]
        return {"parameters": parameters(network), "flops": sum(each) / len(each)}


CONTENDERS: tuple[Contender, ...] = (Autoregression(), Diffusion())
