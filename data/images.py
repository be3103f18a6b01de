"""Pictures from files: class folders, metadata.jsonl, parquet, or a data set of the hub by name, through `datasets`."""

import hashlib
import json
import math
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps

from data.example import Example

if TYPE_CHECKING:  # importing `datasets` takes two seconds: the functions below do it
    import datasets


@dataclass(frozen=True)
class ImagesConfig:
    """Which pictures, what is said of each, and how large they become."""

    # a folder (class folders, or files beside a metadata.jsonl, or parquet), one parquet file, or a hub data set's name
    path: str
    kind: Literal["images"] = "images"
    # as the data set calls it: train, validation, test, or a slice such as train[:1000]
    split: str = "train"
    # side in pixels of the centre square that is cut from each picture
    image_size: int = 64
    image_column: str = "image"
    # holds captions: a text or a list of texts for each picture; none is the empty text
    caption_column: str | None = None
    # where there are no captions: class names, put into `caption` with spaces for underscores
    label_column: str = "label"
    caption: str = "a photo of a {label}"
    # makes a validation set of a share of the split, always the same rows, and a training set of the others
    part: Literal["all", "train", "val"] = "all"
    val_fraction: float = 0.05
    # branch, tag or commit of a hub data set
    revision: str | None = None
    # read while downloading, without length or index: see ImageStream
    streaming: bool = False

    def __post_init__(self) -> None:
        if self.image_size < 1:
            raise ValueError(f"image_size must be at least 1, got {self.image_size}")
        if not 0 < self.val_fraction < 1:
            raise ValueError(f"val_fraction must lie between 0 and 1, got {self.val_fraction}")
        if self.streaming and self.part != "all":
            raise ValueError(f"part must be all for a stream, whose rows have no number, got {self.part}")
        unknown = set(re.findall(r"\{.*?\}", self.caption)) - {"{label}"}
        if unknown:
            raise ValueError(f"caption knows only {{label}}, got {', '.join(sorted(unknown))}")


class UnreadableError(ValueError):
    """A file that isn't a whole picture."""


class Images:
    """A `Source` of pictures from files.

    A picture that can't be read is replaced by the next one that can, so that one bad file among a million doesn't end
    a run; `num_unreadable` counts them. When they are more than 1%, reading one more is an error.

    Raises:
        FileNotFoundError: There is no such folder, file, data set or revision, or the hub can't be reached.
        ValueError: A column or split is missing, or the part is empty.
    """

    def __init__(self, config: ImagesConfig) -> None:
        if config.streaming:
            raise ValueError(f"{config.path}: streaming is true, but a stream has no index; read it with ImageStream")
        self.config = config
        dataset = _load(config)
        self._fingerprint: str = dataset._fingerprint
        self._columns = _Columns(config, dataset.features)
        self._dataset = self._columns.select(dataset)
        self._rows = _rows(len(dataset), config)
        self._unreadable = _Unreadable(config.path)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Example:
        if not 0 <= index < len(self):
            raise IndexError(f"picture {index} of {len(self)}")
        for step in range(len(self)):
            row = int(self._rows[(index + step) % len(self)])
            values = self._dataset[row]
            try:
                return self._columns.example(values, row)
            except UnreadableError as error:
                self._unreadable.add(row, error, num_pictures=len(self))
        raise AssertionError("unreachable: more than 1% unreadable is an error")

    @property
    def fingerprint(self) -> str:
        """Changes when the files, their times of change or the config do."""
        config = json.dumps(asdict(self.config), sort_keys=True)
        return hashlib.sha256(f"{self._fingerprint} {config}".encode()).hexdigest()[:16]

    @property
    def num_unreadable(self) -> int:
        """How many pictures this process has found unreadable so far."""
        return len(self._unreadable.rows)


class ImageStream:
    """Pictures one after the other, for what is too large to download: shards shuffled, rows within a buffer of 1000.

    Resuming is approximate: what the buffer held is lost, and a few rows come twice. Pictures that can't be read are
    skipped, and counted like those of `Images`.

    Args:
        config: With `streaming: true`.
        seed: Of the shuffling; give another one for each epoch.
    """

    def __init__(self, config: ImagesConfig, seed: int = 0) -> None:
        if not config.streaming:
            raise ValueError(f"{config.path}: ImageStream needs streaming: true")
        dataset = _load(config)
        if dataset.features is None:  # the format doesn't say: a look at the first rows does
            dataset = dataset._resolve_features()
        self._columns = _Columns(config, dataset.features)
        self._dataset = self._columns.select(dataset).shuffle(seed, buffer_size=1000)
        self._unreadable = _Unreadable(config.path)

    def __iter__(self) -> Iterator[Example]:
        for row, values in enumerate(self._dataset):
            try:
                example = self._columns.example(values, row)
            except UnreadableError as error:
                self._unreadable.add(row, error, num_pictures=max(row, 1000))
            else:
                yield example

    @property
    def num_unreadable(self) -> int:
        """How many pictures were skipped so far."""
        return len(self._unreadable.rows)

    def state_dict(self) -> dict[str, Any]:
        """The place in the stream, for `load_state_dict`."""
        return self._dataset.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes to a place in the stream; the next iteration starts there."""
        self._dataset.load_state_dict(state)


def read_image(file: str | Path | BytesIO, image_size: int) -> UInt8[np.ndarray, "image_size image_size 3"]:
    """Reads the centre square of a picture in RGB: turned as its EXIF says, what is transparent on white.

    Args:
        file: A path, or an open file, in any format that Pillow reads.
        image_size: Side of the result in pixels.

    Returns:
        The pixels, resized with antialiasing.

    Raises:
        UnreadableError: The file is missing, truncated, no picture, or absurdly large.
    """
    image, _ = _read(file, image_size)
    return _cut(image, (image_size, image_size))


def read_to_fit(
    picture: str | Path | Image.Image, sizes: Sequence[tuple[int, int]]
) -> UInt8[np.ndarray, "height width 3"]:
    """Reads a picture as `read_image` does, but in one of several sizes, and warns of what it changed.

    Args:
        picture: A path, or a picture that is open.
        sizes: (height, width) in pixels; the result has the first of those whose shape is nearest to the picture's.

    Raises:
        UnreadableError: The file is missing, truncated, no picture, or absurdly large.
    """
    image, num_frames = _read(picture, max(map(max, sizes)))
    if num_frames > 1:
        warnings.warn(f"of the {num_frames} frames of a picture only the first is read", stacklevel=3)
    height, width = min(sizes, key=lambda size: abs(math.log(size[0] / size[1] * image.width / image.height)))
    if (image.height, image.width) != (height, width):
        warnings.warn(
            f"a picture of {image.height} x {image.width} pixels (height x width) is cut and resized to {height} x "
            f"{width}, which is what the model reads",
            stacklevel=3,
        )
    return _cut(image, (height, width))


def size_of(picture: str | Path | Image.Image) -> tuple[int, int]:
    """Width and height of a picture in pixels, before anything is changed."""
    if isinstance(picture, Image.Image):
        return picture.size
    try:
        with Image.open(picture) as opened:
            return opened.size
    except Exception as error:
        raise UnreadableError(f"{type(error).__name__}: {error}") from error


def _read(picture: str | Path | BytesIO | Image.Image, size: int) -> tuple[Image.Image, int]:
    """A picture in RGB, turned as its EXIF says, and how many frames it has; a large JPEG may come smaller."""
    try:
        with nullcontext(picture) if isinstance(picture, Image.Image) else Image.open(picture) as opened:
            opened.draft(None, (2 * size, 2 * size))  # a JPEG is decoded no larger than is of use
            return _to_rgb(ImageOps.exif_transpose(opened)), getattr(opened, "n_frames", 1)
    except Exception as error:  # Pillow's decoders raise nearly anything when a file is broken
        raise UnreadableError(f"{type(error).__name__}: {error}") from error


def _cut(image: Image.Image, size: tuple[int, int]) -> UInt8[np.ndarray, "height width 3"]:
    """The largest part around the centre that has the shape of (height, width), resized to it with antialiasing."""
    height, width = size
    scale = min(image.width / width, image.height / height)
    left, top = (image.width - width * scale) / 2, (image.height - height * scale) / 2
    box = (left, top, left + width * scale, top + height * scale)
    return np.array(image.resize((width, height), Image.Resampling.BICUBIC, box))


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16 bits of gray, which convert("RGB") would clip to white
        return Image.fromarray((np.asarray(image).clip(0, 65535) / 257).round().astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


class _Unreadable:
    """Keeps account of the pictures that can't be read: says so once, and stops when they are too many."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.rows: set[int] = set()

    def add(self, row: int, error: UnreadableError, num_pictures: int) -> None:
        first = not self.rows
        self.rows.add(row)
        if len(self.rows) > 0.01 * num_pictures:
            raise ValueError(
                f"{self.path}: {len(self.rows)} of {num_pictures} pictures can't be read, more than 1%; the last is in "
                f"row {row}: {error}. Repair or remove them"
            )
        if first:
            warnings.warn(
                f"{self.path}: 1 of {num_pictures} pictures can't be read so far, the one in row {row}: {error}. "
                "Another takes its place, and so for the next; num_unreadable counts them, more than 1% is an error",
                stacklevel=3,
            )


class _Columns:
    """Which columns of a data set are read, and how a row of them becomes an example."""

    def __init__(self, config: ImagesConfig, features: "datasets.Features") -> None:
        self.config = config
        wanted = {"image_column": config.image_column}
        if config.caption_column is not None:
            wanted["caption_column"] = config.caption_column
        elif "{label}" in config.caption:
            wanted["label_column"] = config.label_column
        for field, name in wanted.items():
            if name not in features:
                advice = ", or caption_column, or a caption without {label}" if field == "label_column" else ""
                known = ", ".join(features) or "none"
                raise ValueError(f"{config.path} has no column {name!r}, only {known}; set {field}{advice}")
        self.names = list(wanted.values())
        label = features.get(wanted.get("label_column"))
        self.class_name = getattr(label, "int2str", str)
        if (
            label is not None
            and self.class_name is str
            and getattr(label, "dtype", None) not in ("string", "large_string")
        ):
            raise ValueError(
                f"{config.path}: column {config.label_column!r} has no class names but {label}; set label_column or "
                "caption_column to a column of text"
            )

    def select(self, dataset: Any) -> Any:
        """The data set with these columns alone, pictures as files: a broken one shall raise where we can catch it."""
        import datasets

        try:
            return dataset.select_columns(self.names).cast_column(self.names[0], datasets.Image(decode=False))
        except (TypeError, ValueError, NotImplementedError) as error:  # as pyarrow has it
            raise ValueError(
                f"{self.config.path}: column {self.names[0]!r} doesn't hold pictures ({error}); set image_column"
            ) from error

    def example(self, values: dict[str, Any], row: int) -> Example:
        metadata: dict[str, Any] = {"row": row}
        if self.config.caption_column is not None:
            texts = values[self.config.caption_column] or ""
            captions = tuple(texts) if isinstance(texts, list) else (texts,)
        else:
            text = self.config.caption
            if "{label}" in text:
                label = values[self.config.label_column]
                if label is None or label == -1:  # -1 is how test sets hide their labels
                    raise ValueError(f"{self.config.path}: row {row} has no {self.config.label_column!r}")
                metadata["label"] = self.class_name(label)
                text = text.replace("{label}", metadata["label"].replace("_", " "))
            captions = (text,)
        cell = values[self.config.image_column]
        if cell is None:
            raise UnreadableError("there is none")
        image = read_image(cell["path"] if cell["bytes"] is None else BytesIO(cell["bytes"]), self.config.image_size)
        return Example(image, captions, metadata)


def _load(config: ImagesConfig) -> Any:
    """The split as `datasets` has it, a Dataset or for a stream an IterableDataset."""
    import datasets

    path = Path(config.path).expanduser()
    how: dict[str, Any] = {"split": config.split, "streaming": config.streaming}
    try:
        if config.revision is not None and path.exists():
            raise ValueError(f"is a local path, and has no revision {config.revision}")
        if path.is_file():
            if path.suffix != ".parquet":
                raise ValueError("is a file, but not a parquet file; give a folder, or the name of a hub data set")
            # One file is all the splits there are, so it may be called as one likes.
            return datasets.load_dataset("parquet", data_files={config.split.split("[")[0]: str(path)}, **how)
        if path.is_dir():
            return datasets.load_dataset(str(path), **how)
        if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", config.path) or path.suffix == ".parquet":
            raise FileNotFoundError("is no folder or file, and can't be the name of a hub data set")
        return datasets.load_dataset(config.path, revision=config.revision, **how)
    except ConnectionError as error:
        raise FileNotFoundError(
            f"{config.path} is no folder here, and the hub can't be reached for a data set of that name: {error}"
        ) from error
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{config.path}: {error}") from error
    except ValueError as error:
        raise ValueError(f"{config.path}: {error}") from error


def _rows(num_rows: int, config: ImagesConfig) -> np.ndarray:
    """The rows of the part, in the order of the file, which is the faster one to read."""
    rows = np.arange(num_rows)
    if config.part != "all":
        # One fixed permutation, so that training and validation agree on it without a word between them.
        rows = np.random.default_rng(0).permutation(num_rows)
        num_val = round(num_rows * config.val_fraction)
        rows = np.sort(rows[:num_val] if config.part == "val" else rows[num_val:])
    if len(rows) == 0:
        raise ValueError(f"{config.path}: part {config.part} of {num_rows} pictures is empty")
    return rows
