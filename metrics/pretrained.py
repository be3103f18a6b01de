"""Judges that others trained, from local folders in the layout of `transformers`, which has to be installed for them.

Nothing is downloaded. Fetch `openai/clip-vit-base-patch32` or `facebook/dinov2-base` once, by `hf download`, and name
the folder.
"""

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor


class _Judge:
    """A network of `transformers` with its preprocessing.

    Raises:
        FileNotFoundError: The folder is missing or not whole.
        ModuleNotFoundError: `transformers` is not installed.
        ValueError: It holds another kind of network.
    """

    kind = ""

    def __init__(self, folder: Path, device: str | torch.device = "cpu") -> None:
        missing = [name for name in ("config.json", "preprocessor_config.json") if not (folder / name).is_file()]
        weights = sorted(folder.glob("*.safetensors"))
        if missing or not weights:
            raise FileNotFoundError(
                f"no {self.kind} weights at {folder}: expected config.json, preprocessor_config.json and "
                "model.safetensors there"
            )
        try:
            import transformers
        except ImportError:
            raise ModuleNotFoundError(f"{self.kind} needs transformers: pip install transformers") from None
        config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True)
        if config.model_type != self.kind:
            raise ValueError(f"{folder} holds a {config.model_type!r}, not a {self.kind!r}")
        self.network: Any = transformers.AutoModel.from_pretrained(folder, local_files_only=True).eval().to(device)
        self.processor: Any = transformers.AutoImageProcessor.from_pretrained(
            folder, local_files_only=True, use_fast=False
        )
        self.folder, self.device = folder, device
        self.digest = hashlib.sha256(b"".join(path.read_bytes() for path in weights)).hexdigest()[:8]

    def parameters(self) -> Iterator[Tensor]:
        return self.network.parameters()

    @property
    def name(self) -> str:
        return f"{self.kind}({self.digest})"

    def _inputs(self, pixels: UInt8[Tensor, "b 3 H W"]) -> Tensor:
        pictures = list(pixels.permute(0, 2, 3, 1).cpu().numpy())
        return self.processor(images=pictures, return_tensors="pt")["pixel_values"].to(self.device)


class Dinov2(_Judge):
    """Features of the class token.

    Source: Stein et al., "Exposing flaws of generative model evaluation metrics", which finds them nearer to what
    people see than Inception's.
    """

    kind = "dinov2"

    @torch.no_grad()
    def __call__(self, pixels: UInt8[Tensor, "b 3 H W"]) -> Float[Tensor, "b d"]:
        return self.network(self._inputs(pixels)).pooler_output.float().cpu()


class Clip(_Judge):
    """Features of pictures, and how well captions fit them."""

    kind = "clip"

    @torch.no_grad()
    def __call__(self, pixels: UInt8[Tensor, "b 3 H W"]) -> Float[Tensor, "b d"]:
        return _vectors(self.network.get_image_features(pixel_values=self._inputs(pixels)))

    @torch.no_grad()
    def score(self, pixels: UInt8[np.ndarray, "n H W 3"], captions: Sequence[str], batch_size: int = 64) -> float:
        """100 times the cosine between picture and caption, at least 0, on average.

        Source: Hessel et al., "CLIPScore", equation 1, with the weight of 100 that is usual since.
        """
        if len(pixels) != len(captions):
            raise ValueError(f"{len(pixels)} pictures and {len(captions)} captions: give as many of each")
        import transformers

        tokenizer: Any = transformers.AutoTokenizer.from_pretrained(self.folder, local_files_only=True)
        scores = []
        for start in range(0, len(pixels), batch_size):
            some = torch.from_numpy(pixels[start : start + batch_size]).permute(0, 3, 1, 2)
            told = tokenizer(
                list(captions[start : start + batch_size]), padding=True, truncation=True, return_tensors="pt"
            ).to(self.device)
            scores.append(F.cosine_similarity(self(some), _vectors(self.network.get_text_features(**told))))
        return float(100 * torch.cat(scores).clamp_min(0).mean())


def _vectors(found: Any) -> Float[Tensor, "b d"]:
    """What older releases of `transformers` return as a tensor, newer ones wrap."""
    return (found if isinstance(found, Tensor) else found.pooler_output).float().cpu()
