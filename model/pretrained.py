"""A trained model's parts: the transformer, its id table and both tokenizers, loaded, saved and compiled as one."""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from data.pictures import to_images
from model.engine import Engine
from model.sampling import SamplingConfig
from model.transformer import ModelConfig, Transformer
from runtime.checkpoint import load_folder, load_weights, save_folder
from runtime.config import from_dict, to_dict
from runtime.device import resolve_device
from tokenizer.image import ImageTokenizer, ImageTokenizerConfig
from tokenizer.text import TextTokenizer
from tokenizer.vocabulary import Vocabulary

if TYPE_CHECKING:
    from PIL.Image import Image

    Picture = str | Path | Image

MODEL_TYPE = "plantain"
TEXT_FILE = "tokenizer.json"
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}

# substitutions (regular expression, text), one after another
Omission = Sequence[tuple[str, str]]
Drawing = Literal["text_to_image", "edit", "inpaint"]  # abilities that draw, each by its recipe
Model = TypeVar("Model", bound="Pretrained")  # typing.Self, in words that the checking hook reads


class Pretrained:
    """What every ability of a model is made from; `Plantain` adds the abilities.

    Args:
        transformer: Ids to hidden states.
        image_tokenizer: Images to codes and back.
        text_tokenizer: Text to ids and back.
        recipe: How this model is best sampled; every call may differ from it.
        grids: Grids (rows, columns) of codes that it was trained on.
        card: What is known of the training: data, config, steps, ...
        draft: What Jacobi decoding guesses from, see model.draft.
        abilities: What it has learnt, as tasks.mixture calls it; other things it is not asked for.
        editing: How it is best sampled where it edits; by default as elsewhere.
        choosing: How it is best sampled where one of several pictures is kept, which should differ; by default as
            elsewhere.
        inpainting: How it is best sampled where one picture is drawn in part; by default as elsewhere.
        omissions: Ways to leave words out of a prompt, each some substitutions (regular expression, text), one after
            another: what `insistence` pushes away from.
    """

    def __init__(
        self,
        transformer: Transformer,
        image_tokenizer: ImageTokenizer,
        text_tokenizer: TextTokenizer,
        recipe: SamplingConfig,
        grids: Sequence[tuple[int, int]],
        card: dict[str, Any] | None = None,
        draft: Int[Tensor, " size"] | None = None,
        abilities: Sequence[str] = ("text_to_image",),
        editing: SamplingConfig | None = None,
        choosing: SamplingConfig | None = None,
        inpainting: SamplingConfig | None = None,
        omissions: Sequence[Omission] = (),
    ) -> None:
        self.transformer = transformer.eval()
        self.image_tokenizer = image_tokenizer.eval()
        self.text_tokenizer = text_tokenizer
        self.vocabulary = Vocabulary(text_tokenizer.num_text, image_tokenizer.codebook_size)
        self.recipe, self.editing, self.choosing, self.inpainting = recipe, editing, choosing, inpainting
        self.grids = [(rows, columns) for rows, columns in grids]
        self.card = card or {}
        self.draft = draft
        self.abilities = tuple(abilities)
        self.omissions = tuple(tuple(omission) for omission in omissions)
        # what runs compiled passes, once `compile` was called
        self.engine: Engine | None = None

    @classmethod
    def from_pretrained(
        cls: type[Model],
        name: str | Path,
        device: str | torch.device = "auto",
        dtype: Literal["fp32", "bf16", "int8"] | None = None,
        revision: str | None = None,
    ) -> Model:
        """Loads a checkpoint folder, or downloads one from the Hugging Face hub. Never unpickles.

        Args:
            name: A folder's path or a hub id such as `owner/name`.
            device: `auto` takes the first of CUDA, MPS and CPU that is there.
            dtype: Of the transformer; by default bf16 on CUDA and fp32 elsewhere. int8 also rounds its matrices to 8
                bits: a quarter of the memory of fp32, not sooner on every CPU. The image tokenizer stays in fp32.
            revision: Branch, tag or commit on the hub.

        Raises:
            FileNotFoundError: No such folder or hub id, or a file is missing.
            ValueError: A file is truncated, of another kind of model, or the parts do not belong together.
        """
        folder = _find(name, revision)
        config, weights = load_folder(folder, (TEXT_FILE,))
        if config.get("model_type") != MODEL_TYPE:
            raise ValueError(
                f"{folder} holds a {config.get('model_type')!r}, not a {MODEL_TYPE!r}: give a model's folder"
            )
        parts = ("transformer", "image_tokenizer", "image_tokenizer_digest", "recipe", "grids")
        if missing := [part for part in parts if part not in config]:
            raise ValueError(f"{folder}: config.json lacks {', '.join(missing)}: copy or train the checkpoint again")
        text_tokenizer = TextTokenizer.from_json((folder / TEXT_FILE).read_text())
        image_tokenizer = ImageTokenizer(from_dict(ImageTokenizerConfig, config["image_tokenizer"]))
        load_weights(image_tokenizer, weights, folder, "image_tokenizer.")
        if image_tokenizer.digest != config["image_tokenizer_digest"]:
            raise ValueError(
                f"{folder}: the image tokenizer's weights ({image_tokenizer.digest}) are not those whose codes the "
                f"model learned ({config['image_tokenizer_digest']}): copy both from one training run"
            )
        vocabulary = Vocabulary(text_tokenizer.num_text, image_tokenizer.codebook_size)
        transformer = Transformer(from_dict(ModelConfig, config["transformer"]), vocabulary.size)
        load_weights(transformer, weights, folder, "transformer.")
        device = resolve_device(device)
        draft = weights.get("draft")
        default = "bf16" if device.type == "cuda" else "fp32"
        transformer.to(device, DTYPES[default if dtype in (None, "int8") else dtype])
        if dtype == "int8":
            transformer.quantize()
        return cls(
            transformer,
            image_tokenizer.to(device),
            text_tokenizer,
            from_dict(SamplingConfig, config["recipe"]),
            [tuple(grid) for grid in config["grids"]],
            config.get("card"),
            None if draft is None else draft.to(device),
            config.get("abilities", ("text_to_image",)),
            *(
                from_dict(SamplingConfig, config[name]) if config.get(name) else None
                for name in ("editing", "choosing", "inpainting")
            ),
            omissions=[[(pattern, text) for pattern, text in each] for each in config.get("omissions", ())],
        )

    def save_pretrained(
        self, folder: str | Path, dtype: Literal["fp32", "bf16"] = "fp32", max_shard_size: int | None = None
    ) -> None:
        """Writes `config.json`, `model.safetensors` and `tokenizer.json`; all of them or, on any error, none.

        Args:
            folder: Their place; what is there is replaced.
            dtype: In which the transformer's weights are stored.
            max_shard_size: Bytes of weights in one file, if they are to be divided into several.

        Raises:
            ValueError: The weights are rounded to 8 bits.
        """
        if self.transformer.head.scale is not None:
            raise ValueError("weights in int8 are for sampling: load the checkpoint in fp32 or bf16 to save it")
        weights: dict[str, Tensor] = {
            f"transformer.{name}": tensor.to(DTYPES[dtype]) for name, tensor in self.transformer.state_dict().items()
        }
        weights |= {f"image_tokenizer.{name}": tensor for name, tensor in self.image_tokenizer.state_dict().items()}
        if self.draft is not None:
            weights["draft"] = self.draft
        config = {
            "model_type": MODEL_TYPE,
            "transformer": to_dict(self.transformer.config),
            "image_tokenizer": to_dict(self.image_tokenizer.config),
            "image_tokenizer_digest": self.image_tokenizer.digest,
            "recipe": to_dict(self.recipe),
            "editing": self.editing and to_dict(self.editing),
            "choosing": self.choosing and to_dict(self.choosing),
            "inpainting": self.inpainting and to_dict(self.inpainting),
            "grids": self.grids,
            "abilities": self.abilities,
            "omissions": self.omissions,
            "card": self.card,
        }
        save_folder(Path(folder), config, weights, {TEXT_FILE: self.text_tokenizer.to_json()}, max_shard_size)

    @property
    def device(self) -> torch.device:
        return self.transformer.head.weight.device

    def compile(self: Model) -> Model:
        """Lets later calls run compiled passes: several times sooner, after a minute's wait in the first of each kind.

        Kinds differ by batch size, counted in powers of two, by window and by which filters are used. Needs a C++
        compiler on a CPU.
        """
        self.engine = self.engine or Engine()
        if self.device.type == "cuda":
            decoder: torch.nn.Module = self.image_tokenizer.decoder
            decoder.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
            decoder.compile(dynamic=True)
        else:
            self.transformer.keep_narrow()
        return self

    def sampling(
        self, ability: Drawing = "text_to_image", best_of: int = 1, **settings: float | int | None
    ) -> SamplingConfig:
        """The recipe that fits, but for those fields of SamplingConfig that are given and not None.

        Args:
            ability: Which of them draws.
            best_of: Pictures of which one is kept.
            settings: Fields of SamplingConfig.
        """
        given: dict[str, Any] = {name: value for name, value in settings.items() if value is not None}
        special = {"edit": self.editing, "inpaint": self.inpainting}.get(ability)
        if best_of > 1 and ability != "edit":
            special = self.choosing or special
        return replace(special or self.recipe, **given)

    def shortened(self, prompt: str | None, sampling: SamplingConfig) -> list[str]:
        """A prompt as each omission leaves it; none if `sampling` does not insist on what they leave out.

        Raises:
            ValueError: It does, but the model has no omissions.
        """
        if prompt is None or not sampling.insistence:
            return []
        if not self.omissions:
            raise ValueError(f"insistence is {sampling.insistence}, but this model has no omissions: leave it out")
        left = []
        for omission in self.omissions:
            text = prompt
            for pattern, words in omission:
                text = re.sub(pattern, words, text)
            left += [text] if text.strip() else []
        return left

    def grid_of(self, size: tuple[int, int] | None) -> tuple[int, int]:
        """The grid (rows, columns) of pictures of a size (height, width); the first trained one for None.

        Raises:
            ValueError: The size was never trained.
        """
        return self.image_tokenizer.grid_of(size, self.grids)

    def must_know(self, ability: str) -> None:
        """Raises ValueError unless the model has learnt an ability."""
        if ability not in self.abilities:
            raise ValueError(
                f"this model has not learnt {ability!r}, only {', '.join(self.abilities)}: take another checkpoint, or "
                f"train one whose mixture has a share of it"
            )

    def look(self, picture: "Picture") -> Int[np.ndarray, "h w"]:
        """The codes of a picture as the model reads it.

        It is turned as its EXIF says, what is transparent becomes white, gray becomes RGB. A picture of another size
        than was trained is cut around its centre and resized, with a warning.

        Args:
            picture: A path or a PIL picture.

        Raises:
            ValueError: The file is missing, damaged or no picture.
        """
        from data.images import read_to_fit

        stride = self.image_tokenizer.stride
        pixels = read_to_fit(picture, [(rows * stride, columns * stride) for rows, columns in self.grids])
        return self.image_tokenizer.encode(to_images(pixels[None]).to(self.device))[0].cpu().numpy()


def _find(name: str | Path, revision: str | None) -> Path:
    """A folder as it is, or a hub id's local copy."""
    folder = Path(name)
    if folder.exists() or str(name).count("/") != 1 or str(name).startswith((".", "/", "~")):
        return folder
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(str(name), revision=revision, allow_patterns=["*.json", "*.safetensors"]))
    except Exception as error:  # offline, no such repository, gated: the hub has many classes for it
        raise FileNotFoundError(f"{name} is neither a folder here nor to be had from the hub: {error}") from error
