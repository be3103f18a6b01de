"""Pictures from files arrive whole, upright and in RGB, with their caption; what is wrong with a data set is said."""

import io
import json
import re
import warnings
from itertools import islice
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from PIL import Image

from data.example import Source
from data.images import Images, ImagesConfig, ImageStream, UnreadableError, read_image

RED, WHITE = (255, 0, 0), (255, 255, 255)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr("datasets.config.SLEEP_TIME_ON_THREADS_SHUTDOWN", 0)  # five seconds at each stream's end


def fails(message: str, error: type[Exception] = ValueError):
    return pytest.raises(error, match=re.escape(message))


def png(value: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (4, 4), (value, value, value)).save(file, "png")
    return file.getvalue()


@pytest.fixture
def classes(tmp_path: Path) -> Path:
    """Two class folders of two pictures each."""
    for name in ("cat", "polar_bear"):
        folder = tmp_path / "photos" / name
        folder.mkdir(parents=True)
        for i in range(2):
            Image.new("RGB", (12, 8), RED).save(folder / f"{i}.png")
    return tmp_path / "photos"


def parquet(path: Path, cells: list[bytes], **columns: list[Any]) -> Path:
    """A parquet file with embedded pictures, as the hub has them."""
    features = datasets.Features({"image": datasets.Image()})
    for name, values in columns.items():
        features[name] = datasets.Value("string" if isinstance(values[0], str) else "int64")
    rows = {"image": [{"bytes": cell, "path": None} for cell in cells], **columns}
    path.parent.mkdir(parents=True, exist_ok=True)
    datasets.Dataset.from_dict(rows, features=features).to_parquet(path)
    return path


def numbered(path: Path, num_rows: int, broken: tuple[int, ...] = ()) -> Path:
    cells = [png(i)[:40] if i in broken else png(i) for i in range(num_rows)]
    return parquet(path, cells, text=[str(i) for i in range(num_rows)])


def config(path: Path, **fields: Any) -> ImagesConfig:
    return ImagesConfig(str(path), image_size=4, **fields)


def test_class_folders_become_captions(classes: Path):
    images = Images(config(classes))
    assert isinstance(images, Source)
    assert [example.text for example in (images[0], images[3])] == ["a photo of a cat", "a photo of a polar bear"]
    assert images[3].metadata == {"row": 3, "label": "polar_bear"}
    assert (images[0].image == RED).all() and images[0].image.shape == (4, 4, 3)
    assert Images(config(classes, caption="{label}!"))[0].text == "cat!"


def test_captions_may_stand_in_a_metadata_file(tmp_path: Path):
    lines = [{"file_name": f"{i}.png", "text": text} for i, text in enumerate(["one", None])]
    for line in lines:
        Image.new("L", (4, 4)).save(tmp_path / line["file_name"])
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    images = Images(config(tmp_path, caption_column="text"))
    assert [images[0].text, images[1].text] == ["one", ""]


def test_a_picture_may_have_several_captions(tmp_path: Path):
    rows = {"image": [{"bytes": png(0), "path": None}] * 2, "texts": [["one", "two"], []]}
    features = datasets.Features({"image": datasets.Image(), "texts": datasets.List(datasets.Value("string"))})
    datasets.Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "a.parquet")
    images = Images(config(tmp_path / "a.parquet", caption_column="texts"))
    assert [images[0].captions, images[1].captions] == [("one", "two"), ("",)]


def test_a_parquet_file_and_a_folder_of_them_are_read(tmp_path: Path):
    file = numbered(tmp_path / "rows" / "train.parquet", 3)
    for path in (file, file.parent):
        images = Images(config(path, caption_column="text"))
        assert [(images[i].text, images[i].image[0, 0, 0]) for i in range(3)] == [("0", 0), ("1", 1), ("2", 2)]
    assert len(Images(config(file, caption_column="text", split="train[:2]"))) == 2


def test_a_label_may_be_text_but_no_bare_number(tmp_path: Path):
    assert Images(config(parquet(tmp_path / "a.parquet", [png(0)], label=["cat"])))[0].text == "a photo of a cat"
    with fails("column 'label' has no class names"):
        Images(config(parquet(tmp_path / "b.parquet", [png(0)], label=[3])))


def test_training_and_validation_are_disjoint_and_together_everything(tmp_path: Path):
    file = numbered(tmp_path / "a.parquet", 40)
    parts = [Images(config(file, caption_column="text", part=part, val_fraction=0.25)) for part in ("train", "val")]
    assert [len(part) for part in parts] == [30, 10]
    texts = [[part[i].text for i in range(len(part))] for part in parts]
    assert sorted(texts[0] + texts[1], key=int) == [str(i) for i in range(40)]
    with fails("part val of 40 pictures is empty"):
        Images(config(file, caption_column="text", part="val", val_fraction=0.01))


def test_the_fingerprint_depends_on_the_files_and_the_config(tmp_path: Path):
    first = config(numbered(tmp_path / "a.parquet", 3), caption_column="text")
    second = config(numbered(tmp_path / "b.parquet", 4), caption_column="text")
    fingerprints = [Images(c).fingerprint for c in (first, second, config(tmp_path / "a.parquet", caption="no"))]
    assert len(set(fingerprints)) == 3
    assert Images(first).fingerprint == fingerprints[0]


def test_an_unreadable_picture_is_replaced_by_the_next_readable_one_and_counted(tmp_path: Path):
    images = Images(config(numbered(tmp_path / "a.parquet", 200, broken=(7, 199)), caption_column="text"))
    with pytest.warns(UserWarning, match="1 of 200 pictures can't be read so far, the one in row 7"):
        example = images[7]
    assert (example.text, example.image[0, 0, 0], example.metadata["row"]) == ("8", 8, 8)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # once is enough
        assert images[7].text == "8"
        assert images[199].text == "0"
    assert images.num_unreadable == 2


def test_more_than_one_unreadable_picture_in_a_hundred_is_an_error(tmp_path: Path):
    images = Images(config(numbered(tmp_path / "a.parquet", 100, broken=(7, 8)), caption_column="text"))
    with pytest.warns(UserWarning), fails("2 of 100 pictures can't be read, more than 1%; the last is in row 8"):
        images[7]


@pytest.mark.parametrize("ending", ["jpg", "png"])
def test_a_truncated_file_is_unreadable(tmp_path: Path, ending: str):
    path = tmp_path / f"a.{ending}"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(UnreadableError):
        read_image(path, 8)
    with pytest.raises(UnreadableError):
        read_image(tmp_path / "missing.png", 8)


def test_what_is_transparent_is_white(tmp_path: Path):
    image = Image.new("RGBA", (8, 8), (*RED, 255))
    image.paste((0, 0, 0, 0), (0, 0, 8, 4))
    image.save(tmp_path / "rgba.png")
    palette = Image.new("P", (8, 8), 1)
    palette.putpalette([0, 0, 0, *RED])
    palette.paste(0, (0, 0, 8, 4))
    palette.save(tmp_path / "palette.png", transparency=0)
    for name in ("rgba.png", "palette.png"):
        pixels = read_image(tmp_path / name, 8)
        assert (pixels[:3] == WHITE).all() and (pixels[5:] == RED).all(), name


def test_every_way_to_store_gray_becomes_the_same_rgb(tmp_path: Path):
    Image.fromarray(np.full((8, 8), 128 * 257, np.uint16)).save(tmp_path / "16.png")
    Image.fromarray(np.full((8, 8), 128 * 257, np.uint16)).save(tmp_path / "16.tiff")
    Image.new("L", (8, 8), 128).save(tmp_path / "8.png")
    Image.new("CMYK", (8, 8), (127, 127, 127, 0)).save(tmp_path / "cmyk.tiff")
    for path in tmp_path.glob("*.*"):
        assert (read_image(path, 4) == 128).all(), path.name


def test_the_camera_s_rotation_is_undone_before_the_centre_is_cut(tmp_path: Path):
    image = Image.new("RGB", (48, 16), "black")
    image.paste(RED, (16, 0, 24, 16))  # the left half of the centre square
    exif = Image.Exif()
    exif[0x0112] = 6  # turn clockwise to see it upright: what is left comes to the top
    image.save(tmp_path / "a.png", exif=exif)
    pixels = read_image(tmp_path / "a.png", 16)
    assert (pixels[:7] == RED).all() and (pixels[9:] == 0).all()


def test_shrinking_averages_instead_of_picking_pixels(tmp_path: Path):
    stripes = np.zeros((64, 64), np.uint8)
    stripes[:, ::2] = 255
    Image.fromarray(stripes).save(tmp_path / "a.png")
    assert np.abs(read_image(tmp_path / "a.png", 8)[2:-2, 2:-2].astype(int) - 128).max() <= 2


def test_errors_name_the_columns_and_splits_that_there_are(classes: Path, tmp_path: Path):
    with fails("has no column 'picture', only image, label; set image_column"):
        Images(config(classes, image_column="picture"))
    with fails("has no column 'text', only image, label; set caption_column"):
        Images(config(classes, caption_column="text"))
    with fails("has no column 'kind', only image, label; set label_column, or caption_column"):
        Images(config(classes, label_column="kind"))
    file = parquet(tmp_path / "a.parquet", [png(0)], text=["x"], number=[1])
    with fails("column 'number' doesn't hold pictures"):
        Images(config(file, image_column="number", caption_column="text"))
    with fails("""Unknown split "val". Should be one of ['train']"""):
        Images(config(classes, split="val"))


def test_a_missing_path_is_an_error_that_says_so(tmp_path: Path):
    with fails(f"{tmp_path / 'none'}: is no folder or file", FileNotFoundError):
        Images(config(tmp_path / "none"))
    (tmp_path / "empty").mkdir()
    with fails(str(tmp_path / "empty"), FileNotFoundError):
        Images(config(tmp_path / "empty"))


def test_a_local_path_has_no_revision(classes: Path):
    with fails("is a local path, and has no revision v1"):
        Images(config(classes, revision="v1"))


def test_a_hub_name_without_network_is_an_error_that_says_so():
    with fails("nobody/nothing is no folder here, and the hub can't be reached", FileNotFoundError):
        Images(ImagesConfig("nobody/nothing"))


def test_a_hub_name_is_passed_on_with_split_and_revision(classes: Path, monkeypatch: pytest.MonkeyPatch):
    calls = []
    load = datasets.load_dataset

    def record(*args: Any, **kwargs: Any) -> Any:
        calls.append((args, kwargs))
        return load(str(classes), split="train", streaming=kwargs["streaming"])

    monkeypatch.setattr(datasets, "load_dataset", record)
    assert len(Images(ImagesConfig("owner/name", split="test", revision="v1"))) == 4
    assert len(list(ImageStream(ImagesConfig("owner/name", streaming=True)))) == 4
    assert calls == [
        (("owner/name",), {"split": "test", "revision": "v1", "streaming": False}),
        (("owner/name",), {"split": "train", "revision": None, "streaming": True}),
    ]


def test_a_stream_holds_every_readable_picture_once_in_an_order_of_its_seed(tmp_path: Path):
    streamed = config(numbered(tmp_path / "a.parquet", 20, broken=(3,)), caption_column="text", streaming=True)
    with pytest.warns(UserWarning, match="can't be read"):
        orders = [[example.text for example in ImageStream(streamed, seed)] for seed in (0, 0, 1)]
    assert orders[0] == orders[1] != orders[2]
    assert sorted(orders[0], key=int) == [str(i) for i in range(20) if i != 3]


def test_a_stream_goes_on_from_its_state_and_loses_no_more_than_its_buffer(tmp_path: Path):
    streamed = config(numbered(tmp_path / "a.parquet", 1500), caption_column="text", streaming=True)
    stream, resumed = ImageStream(streamed), ImageStream(streamed)
    seen = [example.text for example in islice(stream, 100)]
    resumed.load_state_dict(stream.state_dict())
    rest = [example.text for example in resumed]
    assert set(seen).isdisjoint(rest) and 400 <= len(rest) <= 1400


def test_a_stream_has_no_index_and_no_parts(tmp_path: Path):
    with fails("read it with ImageStream"):
        Images(config(tmp_path, streaming=True))
    with fails("part must be all for a stream"):
        config(tmp_path, streaming=True, part="val")


@pytest.mark.parametrize("fields", [{"image_size": 0}, {"val_fraction": 1.0}, {"caption": "a {lable}"}])
def test_a_config_that_makes_no_sense_is_an_error(fields: dict[str, Any]):
    with fails(next(iter(fields))):
        ImagesConfig("x", **fields)
