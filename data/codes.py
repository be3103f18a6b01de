"""A source's pictures as codes, computed once and kept on disk under a name that changes whenever they would."""

import hashlib
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from data.example import Example, Source
from data.pictures import by_shape, to_images

if TYPE_CHECKING:
    from datasets import Dataset

    from tokenizer.image import ImageTokenizer

CACHE = Path(os.environ.get("PLANTAIN_CACHE", ".cache")) / "codes"


class Encoded(NamedTuple):
    """An Example with codes in place of its picture."""

    codes: Int[np.ndarray, "h w"]
    captions: Sequence[str]
    # each with its answer
    questions: Sequence[tuple[str, str]] = ()
    # an instruction, and what following it gives
    edit: "tuple[str, Encoded] | None" = None
    # what the codes were rounded from, place by place, if it was kept
    features: Float[np.ndarray, "n c"] | None = None

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> "Encoded":
        """What a row of `encode_source` holds."""
        codes = np.array(row["codes"], dtype=np.int64)
        asked = tuple((entry["question"], entry["answer"]) for entry in row.get("questions", ()))
        edit = (row["instruction"], cls.of(row["edited"])) if "edited" in row else None
        features = np.float32(row["features"]).reshape(codes.size, -1) if "features" in row else None
        return cls(codes, row["captions"], asked, edit, features)


def encode_source(
    source: Source,
    tokenizer: "ImageTokenizer",
    device: torch.device,
    cache: Path = CACHE,
    batch_size: int = 128,
    num_workers: int = 0,
    features: bool = False,
) -> "Dataset":
    """Codes and captions of all examples of a source.

    Args:
        source: Where the pictures come from.
        tokenizer: Turns them into codes, in fp32.
        device: Where to encode.
        cache: Folder of caches; one for each pair of source and tokenizer.
        batch_size: Pictures read at once, and encoded at once where they are of one size.
        num_workers: Processes that read or draw pictures while others are encoded.
        features: Whether what the codes are rounded from is kept too.

    Returns:
        A data set whose rows `Encoded.of` reads; its columns are `codes` (rows of a grid), `captions` (one or more
        texts) and, where the source's examples have them, `questions`, `instruction` and `edited`; and `features`.
    """
    import datasets

    whole = f"{source.fingerprint} {tokenizer.digest}" + " features" * features
    name = hashlib.sha256(whole.encode()).hexdigest()[:16]
    folder = cache / name
    if folder.is_dir():
        return datasets.Dataset.load_from_disk(str(folder))
    code = datasets.Value("uint16" if tokenizer.codebook_size <= 2**16 else "uint32")
    text = datasets.Value("string")
    example: dict[str, Any] = {"codes": datasets.List(datasets.List(code)), "captions": datasets.List(text)}
    if features:
        example["features"] = datasets.List(datasets.Value("float32"))
    if source[0].questions:
        example["questions"] = datasets.List({"question": text, "answer": text})
    if source[0].edit is not None:
        example |= {"instruction": text, "edited": dict(example)}
    columns = datasets.Features(example)
    tokenizer = tokenizer.to(device).eval()

    def rows() -> Iterator[dict[str, Any]]:
        from torch.utils.data import DataLoader
        from tqdm import tqdm

        batches: Any = DataLoader(
            source,  # pyright: ignore[reportArgumentType]
            batch_size,
            num_workers=num_workers,
            collate_fn=_stack,  # by the workers: scenes and single pictures would take longer to send than to encode
            generator=torch.Generator(),  # else iter() would draw from the one that initialises the model
        )
        for batch in tqdm(batches, desc="encoding", unit_scale=batch_size, unit="image"):
            yield from _encoded(batch, tokenizer, device, features)

    # The finished folder appears by one rename: a run that is killed while encoding leaves no half cache behind.
    beside = cache / f".{name}.{os.getpid()}"
    try:
        dataset = datasets.Dataset.from_generator(
            rows, features=columns, cache_dir=str(beside / "parts"), fingerprint=name
        )
        dataset.save_to_disk(str(beside / "whole"))  # pyright: ignore[reportAttributeAccessIssue]
        if not folder.is_dir():
            (beside / "whole").rename(folder)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return datasets.Dataset.load_from_disk(str(folder))


def encode_examples(examples: Sequence[Example], tokenizer: "ImageTokenizer", device: torch.device) -> list[Encoded]:
    """A few examples, as `encode_source` encodes all."""
    return [Encoded.of(row) for row in _encoded(_stack(examples), tokenizer, device)]


class _Batch(NamedTuple):
    """What is told of examples, and their pictures."""

    # of each example, with what is told of its edited picture
    rows: list[dict[str, Any]]
    # those of one size, with their places among all examples' pictures, behind which come the edited ones
    pictures: list[tuple[list[int], UInt8[Tensor, "b H W 3"]]]


def _stack(examples: Sequence[Example]) -> _Batch:
    edits = [example.edit for example in examples if example.edit is not None]
    pictures = [example.image for example in (*examples, *(edit.result for edit in edits))]
    rows = [_row(example) for example in examples]
    for example, row in zip(examples, rows, strict=True):
        if example.edit is not None:
            row |= {"instruction": example.edit.instruction, "edited": _row(example.edit.result)}
    stacks = [(places, np.stack([pictures[place] for place in places])) for places in by_shape(pictures)]
    return _Batch(rows, [(places, torch.from_numpy(stack)) for places, stack in stacks])


def _encoded(
    batch: _Batch, tokenizer: "ImageTokenizer", device: torch.device, features: bool = False
) -> list[dict[str, Any]]:
    """The batch's rows, with the codes of their pictures."""
    told = [*batch.rows, *(row["edited"] for row in batch.rows if "edited" in row)]
    for places, pixels in batch.pictures:
        images = to_images(pixels.numpy()).to(device)
        parts = {"codes": tokenizer.encode(images).cpu().numpy()}
        if features:
            parts["features"] = rearrange(tokenizer.features(images), "b c h w -> b (h w c)").cpu().numpy()
        for number, place in enumerate(places):
            told[place] |= {name: part[number] for name, part in parts.items()}
    return batch.rows


def _row(example: Example) -> dict[str, Any]:
    row: dict[str, Any] = {"captions": list(example.captions)}
    if example.questions:
        row["questions"] = [{"question": question, "answer": answer} for question, answer in example.questions]
    return row


def grids_of(codes: "Dataset") -> list[tuple[int, int]]:
    """The grids (rows, columns) that occur among codes, the nearest to a square first."""
    import pyarrow.compute

    arrow: Any = pyarrow.compute  # its functions are made when it is imported
    column = codes.with_format("arrow")[:]["codes"]  # as lists of Python's, millions would take a minute
    rows = arrow.list_value_length(column)
    columns = arrow.list_value_length(arrow.list_element(column, 0))
    found = set(zip(rows.to_pylist(), columns.to_pylist(), strict=True))
    return sorted(found, key=lambda grid: (max(grid) / min(grid), grid))
