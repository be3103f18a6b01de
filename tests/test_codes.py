"""A source is encoded once for each image tokenizer, and a half-finished cache never counts."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from data.codes import Encoded, encode_source, grids_of
from data.example import Example
from data.pictures import to_images
from tokenizer.image import ImageTokenizer


class Noise:
    """A source of a few random pictures with one or two captions each."""

    def __init__(self, seed: int = 0, broken: int | None = None) -> None:
        self.seed, self.broken = seed, broken

    def __len__(self) -> int:
        return 5

    def __getitem__(self, index: int) -> Example:
        if index == self.broken:
            raise RuntimeError("the disk caught fire")
        rng = np.random.default_rng((self.seed, index))
        captions = (f"noise {index}", "noise 🍌")[: 1 + index % 2]
        return Example(rng.integers(256, size=(8, 12, 3), dtype=np.uint8), captions)

    @property
    def fingerprint(self) -> str:
        return f"noise {self.seed}"


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of the batches that were encoded so far."""
    sizes: list[int] = []
    encode = ImageTokenizer.encode

    def counted(self: ImageTokenizer, images: torch.Tensor) -> torch.Tensor:
        sizes.append(len(images))
        return encode(self, images)

    monkeypatch.setattr(ImageTokenizer, "encode", counted)
    return sizes


def run(source: Noise, tokenizer: ImageTokenizer, cache: Path):
    return encode_source(source, tokenizer, torch.device("cpu"), cache, batch_size=2)


def test_what_codes_are_rounded_from_is_kept_where_it_is_asked_for(tiny_image_tokenizer: Callable, tmp_path: Path):
    tokenizer, source = tiny_image_tokenizer(), Noise()
    dataset = encode_source(source, tokenizer, torch.device("cpu"), tmp_path, features=True)
    for index, row in enumerate(dataset):
        example = Encoded.of(row)
        rows, columns = example.codes.shape
        assert example.features is not None
        features = torch.from_numpy(example.features).view(1, rows, columns, -1).permute(0, 3, 1, 2)
        expected = tokenizer.features(to_images(source[index].image[None]))
        torch.testing.assert_close(features, expected)
        assert np.array_equal(tokenizer.quantizer(features).codes[0].numpy(), example.codes)
    assert Encoded.of(run(source, tokenizer, tmp_path)[0]).features is None  # another cache, not the same one


def test_the_cache_holds_the_codes_and_captions_of_each_example(tiny_image_tokenizer: Callable, tmp_path: Path):
    tokenizer, source = tiny_image_tokenizer(), Noise()
    dataset = run(source, tokenizer, tmp_path)
    assert len(dataset) == 5 and set(dataset.column_names) == {"codes", "captions"}
    for index, row in enumerate(dataset):
        example = source[index]
        assert row["codes"] == tokenizer.encode(to_images(example.image[None]))[0].tolist()
        assert tuple(row["captions"]) == example.captions


class MixedNoise(Noise):
    """The same in two sizes, one after the other and then both again."""

    def __getitem__(self, index: int) -> Example:
        example = super().__getitem__(index)
        return Example(example.image[:, : 12 - 4 * (index % 2)], example.captions)

    @property
    def fingerprint(self) -> str:
        return f"mixed {super().fingerprint}"


def test_pictures_of_several_sizes_are_encoded_as_each_alone(
    tiny_image_tokenizer: Callable, tmp_path: Path, encoded: list[int]
):
    tokenizer, source = tiny_image_tokenizer(), MixedNoise()
    dataset = encode_source(source, tokenizer, torch.device("cpu"), tmp_path, batch_size=4)
    assert encoded == [2, 2, 1]  # those of one size together
    for index, row in enumerate(dataset):
        assert row["codes"] == tokenizer.encode(to_images(source[index].image[None]))[0].tolist()
        assert tuple(row["captions"]) == source[index].captions
    assert grids_of(dataset) == [(2, 2), (2, 3)]  # the square first, though it came second


def test_the_second_call_encodes_nothing(tiny_image_tokenizer: Callable, tmp_path: Path, encoded: list[int]):
    first = run(Noise(), tiny_image_tokenizer(), tmp_path)
    assert encoded == [2, 2, 1]
    second = run(Noise(), tiny_image_tokenizer(), tmp_path)
    assert encoded == [2, 2, 1]
    assert list(first) == list(second)


def test_another_source_or_tokenizer_is_encoded_anew(
    tiny_image_tokenizer: Callable, tmp_path: Path, encoded: list[int]
):
    first = run(Noise(), tiny_image_tokenizer(), tmp_path)
    other_source = run(Noise(seed=1), tiny_image_tokenizer(), tmp_path)
    other_weights = run(Noise(), tiny_image_tokenizer(seed=1), tmp_path)
    assert encoded == [2, 2, 1] * 3
    assert len(list(tmp_path.iterdir())) == 3
    assert list(first["codes"]) != list(other_source["codes"]) != list(other_weights["codes"])
    assert list(first["codes"]) != list(other_weights["codes"])


def test_an_interrupted_encoding_leaves_nothing_behind(tiny_image_tokenizer: Callable, tmp_path: Path):
    with pytest.raises(Exception, match="disk caught fire|generating the dataset"):
        run(Noise(broken=3), tiny_image_tokenizer(), tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert len(run(Noise(), tiny_image_tokenizer(), tmp_path)) == 5
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]
