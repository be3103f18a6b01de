"""The whole model as a user meets it: pictures of prompts, checkpoints that are whole or refused, errors that help."""

import errno
import json
import os
import pickle
import re
import stat
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from safetensors import SafetensorError

from data.pictures import to_pixels
from model import Plantain
from model.sampling import SamplingConfig
from tokenizer.sequence import ImageSegment, TextSegment, unpack

PROMPT = "a small red circle"
FILES = {"config.json", "model.safetensors", "tokenizer.json"}


def pictures(plantain: Plantain, prompt=PROMPT, **settings) -> list[bytes]:
    return [image.tobytes() for image in plantain.generate(prompt, **settings).images]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def saved(tiny: Callable, tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    tiny().save_pretrained(folder)
    return folder


def edit_config(folder: Path, change: Callable[[dict], object]) -> None:
    config = json.loads((folder / "config.json").read_text())
    change(config)
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_picture_i_of_a_prompt_is_the_same_for_every_batch_size_and_in_every_company(tiny: Callable, guidance: float):
    plantain = tiny()
    alone = plantain.generate(PROMPT, num_images=8, seed=5, guidance=guidance)
    assert len({grid.tobytes() for grid in alone.codes}) > 3
    expected = [image.tobytes() for image in alone.images]
    for batch_size in (1, 3, 8):
        assert pictures(plantain, num_images=8, seed=5, guidance=guidance, batch_size=batch_size) == expected
    assert pictures(plantain, num_images=2, seed=5, guidance=guidance) == expected[:2]
    prompts = ["x", PROMPT, None, "two green rings above a large magenta cross"]
    mixed = pictures(plantain, prompts, num_images=3, seed=5, guidance=guidance, batch_size=5)
    assert mixed[3:6] == expected[:3]
    assert pictures(plantain, [PROMPT, "x", PROMPT], seed=5, guidance=guidance, first=[4, 0, 7])[::2] == expected[4::3]
    assert pictures(plantain, num_images=2, seed=5, guidance=guidance, first=3) == expected[3:5]
    for wrong in ([1], [0, -1]):
        with pytest.raises(ValueError, match=r"first is .* as many as prompts \(2\)"):
            plantain.generate(["x", "y"], first=wrong)


def test_a_generation_says_what_led_to_each_picture(tiny: Callable):
    plantain: Plantain = tiny()
    result = plantain.generate([PROMPT, None], num_images=2, seed=11, top_k=4)
    assert result.prompts == [PROMPT, PROMPT, None, None] and result.samples == [0, 1, 0, 1] and result.seed == 11
    assert result.sampling == SamplingConfig(guidance=2.0, top_k=4)  # the recipe, and what the call changed
    assert plantain.recipe == SamplingConfig(guidance=2.0)
    for image, codes, ids, prompt in zip(result.images, result.codes, result.ids, result.prompts, strict=True):
        *text, picture = unpack(ids.tolist(), plantain.vocabulary)
        assert isinstance(picture, ImageSegment) and np.array_equal(picture.codes, codes)
        said = [plantain.text_tokenizer.decode(segment.ids) for segment in text if isinstance(segment, TextSegment)]
        assert said == ([] if prompt is None else [prompt])
        decoded = plantain.image_tokenizer.decode(torch.from_numpy(codes)[None])
        assert np.array_equal(np.asarray(image), to_pixels(decoded)[0])


def test_seeds_and_guidance_make_different_pictures(tiny: Callable):
    plantain = tiny()
    many = [b"".join(pictures(plantain, num_images=6, seed=seed)) for seed in (0, 1, 2**63 - 1)]
    assert len(set(many)) == 3
    guided = [b"".join(pictures(plantain, num_images=6, guidance=scale)) for scale in (0.0, 1.0, 2.0, 6.0)]
    assert len(set(guided)) == 4
    assert guided[2] == many[0]  # two is the recipe's
    assert b"".join(pictures(plantain, num_images=6)) == many[0]  # and no call left a trace


def test_a_trained_size_is_drawn_and_given_as_height_x_width(tiny: Callable):
    result = tiny().generate(PROMPT, size=(8, 12))
    assert result.images[0].size == (12, 8) and result.codes[0].shape == (2, 3)


def test_progress_counts_every_code(tiny: Callable):
    calls: list[tuple[int, int]] = []
    settings = dict(num_images=3, batch_size=2, decoding="sequential")
    tiny().generate(PROMPT, progress=lambda done, total: calls.append((done, total)), **settings)
    assert calls == [(2, 12), (4, 12), (6, 12), (8, 12), (9, 12), (10, 12), (11, 12), (12, 12)]


@pytest.mark.parametrize("decoding", ["sequential", "jacobi"])
def test_a_stream_shows_pictures_that_grow_into_those_that_generate_gives(decoding, tiny: Callable):
    plantain: Plantain = tiny()
    whole = plantain.generate([PROMPT, None], num_images=2, seed=5)
    events = list(plantain.stream([PROMPT, None], num_images=2, seed=5, batch_size=3, decoding=decoding, window=3))
    finished = [event for event in events if event.finished]
    assert sorted(event.picture for event in finished) == [0, 1, 2, 3]
    for event in events:
        grid = whole.codes[event.picture]
        assert np.array_equal(event.codes, grid.flatten()[: len(event.codes)])
        assert event.image.size == whole.images[event.picture].size
        rows = len(event.codes) // grid.shape[1]
        assert event.finished == (rows == len(grid))
        if not event.finished:
            assert (np.asarray(event.image)[rows * 4 :] == 128).all()
    for event in finished:
        assert event.image.tobytes() == whole.images[event.picture].tobytes()
    if decoding == "sequential":
        assert [(event.picture, event.finished) for event in events][:6] == [
            *((picture, False) for picture in range(3)),
            *((picture, True) for picture in range(3)),
        ]


def test_decodings_draw_the_same_pictures(tiny: Callable):
    plantain: Plantain = tiny()
    expected = pictures(plantain, num_images=4, size=(8, 12), decoding="sequential")
    assert pictures(plantain, num_images=4, size=(8, 12)) == expected
    assert pictures(plantain, num_images=4, size=(8, 12), decoding="jacobi", window=6) == expected


def test_a_stream_refuses_at_once_what_it_can_not_draw(tiny: Callable):
    with pytest.raises(ValueError, match="the prompt is empty"):
        tiny().stream("")
    with pytest.raises(ValueError, match="preview_rows is 0"):
        tiny().stream(PROMPT, preview_rows=0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"prompt": ""}, "the prompt is empty"),
        ({"decoding": "jacobi", "window": 0}, "window is 0"),
        ({"prompt": ["a ring", "  \n"]}, "the prompt is empty"),
        ({"prompt": "ring 🍌 " * 30}, r"the prompt is \d+ tokens long, but only 54 fit beside the picture"),
        ({"size": (8, 9)}, "multiple of 4, such as 8 or 12"),
        ({"size": (0, 8)}, "multiple of 4"),
        ({"size": (12, 8)}, r"size 12x8 \(height x width\) was never trained: this model draws 8x8, 8x12"),
        ({"num_images": 0}, "num_images is 0"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"seed": -1}, "seed is -1"),
        ({"seed": 2**63}, "seed is 9223372036854775808"),
        ({"guidance": -1.0}, "guidance is -1.0"),
        ({"guidance": float("nan")}, "guidance is nan"),
        ({"insistence": -0.5}, "insistence is -0.5"),
        ({"temperature": -0.1}, "temperature is -0.1"),
        ({"top_k": -1}, "top_k is -1"),
        ({"top_p": 0.0}, "top_p is 0"),
        ({"top_p": float("nan")}, "top_p is nan"),
        ({"min_p": 1.1}, "min_p is 1.1"),
    ],
)
def test_what_can_not_be_drawn_is_refused_with_the_reason(tiny: Callable, settings: dict, message: str):
    with pytest.raises(ValueError, match=message):
        tiny().generate(**({"prompt": PROMPT} | settings))


def test_the_longest_prompt_that_is_accepted_is_drawn(tiny: Callable):
    plantain: Plantain = tiny()
    prompt = "q" * 54
    assert len(plantain.text_tokenizer.encode(prompt)) == 54
    assert len(plantain.generate(prompt).ids[0]) == 64
    with pytest.raises(ValueError, match="55 tokens long, but only 54 fit"):
        plantain.generate(prompt + "q")


def test_insistence_pushes_away_from_the_prompt_without_some_words_in_each_way(tiny: Callable, tmp_path: Path):
    plantain: Plantain = tiny()
    with pytest.raises(ValueError, match=r"insistence is 1.5, but this model has no omissions"):
        plantain.generate(PROMPT, insistence=1.5)
    plantain.omissions = (((r"red ", ""),), ((r"circle", "ring"), (r"ring", "shape")), ((r".*", ""),))
    plantain.save_pretrained(tmp_path / "model")
    again = Plantain.from_pretrained(tmp_path / "model", "cpu")
    assert again.omissions == plantain.omissions
    (request,) = again.requests([PROMPT], sampling=again.sampling(insistence=1.5))
    assert [guide.weight for guide in request.guiding] == [-1.0, -1.5, -1.5]  # nothing is no prompt
    told = [[again.text_tokenizer.decode(segment.ids) for segment in guide.segments] for guide in request.guiding]
    assert told == [[], ["a small circle"], ["a small red shape"]]
    assert pictures(again, num_images=4) == pictures(plantain, num_images=4, insistence=0.0)
    assert pictures(again, num_images=4) != pictures(plantain, num_images=4, insistence=1.5)
    assert pictures(again, None, insistence=1.5) == pictures(again, None)


def test_weights_that_are_no_numbers_are_reported_with_the_code(tiny: Callable):
    plantain: Plantain = tiny()
    with torch.no_grad():
        plantain.transformer.norm.weight[0] = torch.nan
    with pytest.raises(ValueError, match="logits for id .* of picture 0.* are not finite"):
        plantain.generate(PROMPT)


def test_a_saved_model_draws_the_same_pictures(tiny: Callable, saved: Path):
    plantain, again = tiny(), Plantain.from_pretrained(saved, "cpu")
    assert {path.name for path in saved.iterdir()} == FILES
    assert pictures(again, num_images=4) == pictures(plantain, num_images=4)
    assert again.recipe == plantain.recipe and again.grids == [(2, 2), (2, 3)] and again.card == {"steps": 3}
    other = saved.with_name("other")
    again.save_pretrained(other)
    assert contents(other) == contents(saved)


def test_saving_replaces_what_was_there_and_leaves_no_other_file(tiny: Callable, saved: Path):
    (saved / "old.txt").write_text("from an earlier version")
    tiny(seed=1).save_pretrained(saved)
    assert {path.name for path in saved.iterdir()} == FILES
    assert [path.name for path in saved.parent.iterdir()] == ["model"]
    assert pictures(Plantain.from_pretrained(saved, "cpu"), num_images=4) == pictures(tiny(seed=1), num_images=4)


def test_bf16_halves_the_transformer_and_rounds_it(tiny: Callable, saved: Path):
    plantain, folder = tiny(), saved.with_name("half")
    plantain.save_pretrained(folder, dtype="bf16")
    stored = safetensors.torch.load_file(folder / "model.safetensors")
    for name, tensor in stored.items():
        assert tensor.dtype == (torch.bfloat16 if name.startswith("transformer.") else torch.float32), name
    again = Plantain.from_pretrained(folder, "cpu")
    assert again.transformer.head.weight.dtype == torch.float32
    assert torch.equal(again.transformer.head.weight, plantain.transformer.head.weight.bfloat16().float())
    assert Plantain.from_pretrained(saved, "cpu", dtype="bf16").transformer.head.weight.dtype == torch.bfloat16


def test_int8_draws_whole_pictures_and_is_not_saved(saved: Path, tmp_path: Path):
    plantain = Plantain.from_pretrained(saved, "cpu", dtype="int8")
    assert len(plantain.generate(PROMPT, num_images=2).images) == 2
    with pytest.raises(ValueError, match="load the checkpoint in fp32 or bf16 to save it"):
        plantain.save_pretrained(tmp_path / "rounded")
    assert not (tmp_path / "rounded").exists()


def test_bf16_arithmetic_draws_whole_pictures_too(saved: Path):
    result = Plantain.from_pretrained(saved, "cpu", dtype="bf16").generate(PROMPT, num_images=3)
    assert len(result.images) == 3 and all(0 <= codes.min() and codes.max() < 9 for codes in result.codes)


def test_files_can_be_read_by_whom_the_umask_lets(tiny: Callable, tmp_path: Path):
    before = os.umask(0o022)
    try:
        tiny().save_pretrained(tmp_path / "model")
    finally:
        os.umask(before)
    assert {stat.S_IMODE((tmp_path / "model" / name).stat().st_mode) for name in FILES} == {0o644}


def test_loading_never_unpickles(saved: Path, monkeypatch: pytest.MonkeyPatch):
    def refuse(*_, **__):
        raise AssertionError("unpickled")

    monkeypatch.setattr(torch, "load", refuse)
    for name in ("load", "loads", "Unpickler"):
        monkeypatch.setattr(pickle, name, refuse)
    assert Plantain.from_pretrained(saved, "cpu").generate(PROMPT).images


def test_a_missing_folder_says_so(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="no checkpoint folder at .*nothing"):
        Plantain.from_pretrained(tmp_path / "nothing")
    with pytest.raises(FileNotFoundError, match="plantain-tests/nothing is neither a folder here nor"):
        Plantain.from_pretrained("plantain-tests/nothing")


@pytest.mark.parametrize("name", sorted(FILES))
def test_a_missing_file_is_named(saved: Path, name: str):
    (saved / name).unlink()
    with pytest.raises(FileNotFoundError, match=f"{re.escape(name)} is missing"):
        Plantain.from_pretrained(saved)


@pytest.mark.parametrize("name", sorted(FILES))
@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_a_truncated_file_is_refused(saved: Path, name: str, share: float):
    content = (saved / name).read_bytes()
    (saved / name).write_bytes(content[: int(share * len(content))])
    with pytest.raises(ValueError, match="truncated or foreign|can't be read"):
        Plantain.from_pretrained(saved)


def test_an_image_tokenizer_is_no_model_but_a_model_has_one(tiny: Callable, saved: Path):
    folder = saved.with_name("tokenizer")
    plantain: Plantain = tiny()
    plantain.image_tokenizer.save_pretrained(folder)
    (folder / "tokenizer.json").write_text(plantain.text_tokenizer.to_json())
    with pytest.raises(ValueError, match="holds a 'plantain_image_tokenizer', not a 'plantain'"):
        Plantain.from_pretrained(folder)
    within = type(plantain.image_tokenizer).from_pretrained(saved)
    assert within.digest == plantain.image_tokenizer.digest
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "something"}))
    with pytest.raises(ValueError, match="holds no image tokenizer"):
        type(plantain.image_tokenizer).from_pretrained(folder)


def test_weights_divided_into_several_files_are_the_same_model(tiny: Callable, tmp_path: Path):
    plantain, most = tiny(), 200_000
    plantain.save_pretrained(tmp_path / "model", max_shard_size=most)
    shards = sorted((tmp_path / "model").glob("model-*.safetensors"))
    assert len(shards) > 1 and not (tmp_path / "model/model.safetensors").exists()
    assert all(shard.stat().st_size < 1.1 * most for shard in shards)
    loaded = Plantain.from_pretrained(tmp_path / "model", "cpu")
    for name, tensor in plantain.transformer.state_dict().items():
        assert torch.equal(tensor, loaded.transformer.state_dict()[name])
    assert type(plantain.image_tokenizer).from_pretrained(tmp_path / "model").digest == plantain.image_tokenizer.digest
    shards[1].unlink()
    with pytest.raises(FileNotFoundError, match=f"no complete checkpoint: {shards[1].name} is missing"):
        Plantain.from_pretrained(tmp_path / "model")


def test_another_image_tokenizers_weights_are_refused(tiny: Callable, saved: Path):
    path = saved / "model.safetensors"
    weights = safetensors.torch.load_file(path)
    strange = {f"image_tokenizer.{k}": v for k, v in tiny(seed=1).image_tokenizer.state_dict().items()}
    safetensors.torch.save_file(weights | strange, path)
    with pytest.raises(ValueError, match="are not those whose codes the model learned"):
        Plantain.from_pretrained(saved)


def test_weights_of_another_shape_are_refused(saved: Path):
    edit_config(saved, lambda config: config["transformer"].update(depth=3))
    with pytest.raises(ValueError, match="weights and config.json do not belong together"):
        Plantain.from_pretrained(saved)


def test_an_unknown_setting_in_config_json_is_refused(saved: Path):
    edit_config(saved, lambda config: config["transformer"].update(dropout=0.1))
    with pytest.raises(ValueError, match="dropout"):
        Plantain.from_pretrained(saved)


@pytest.mark.parametrize("key", ["transformer", "image_tokenizer", "image_tokenizer_digest", "recipe", "grids"])
def test_a_config_json_without_one_of_its_parts_is_refused(saved: Path, key: str):
    edit_config(saved, lambda config: config.pop(key))
    with pytest.raises(ValueError, match=f"{key}"):
        Plantain.from_pretrained(saved)


def test_an_image_tokenizer_whose_weights_do_not_fit_its_config_is_refused(tiny: Callable, tmp_path: Path):
    tokenizer = tiny().image_tokenizer
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    edit_config(tmp_path / "tokenizer", lambda config: config["autoencoder"].update(num_blocks=2))
    with pytest.raises(ValueError, match="weights and config.json do not belong together"):
        type(tokenizer).from_pretrained(tmp_path / "tokenizer")


def test_a_folder_that_can_not_be_put_in_place_leaves_the_previous_checkpoint(
    tiny: Callable, saved: Path, monkeypatch: pytest.MonkeyPatch
):
    before, rename = contents(saved.parent), Path.rename

    def refuse(self: Path, target: Path) -> Path:
        if self.name.endswith(".tmp"):
            raise PermissionError("not today")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(PermissionError):
        tiny(seed=1).save_pretrained(saved)
    assert contents(saved.parent) == before


@pytest.mark.parametrize(
    "failure", [OSError(errno.ENOSPC, "full"), SafetensorError("I/O error: No space left on device (os error 28)")]
)
def test_a_full_disk_leaves_the_previous_checkpoint_and_nothing_else(
    tiny: Callable, saved: Path, monkeypatch: pytest.MonkeyPatch, failure: Exception
):
    def save_file(tensors, path: Path, **more) -> None:
        Path(path).write_bytes(b"half")
        raise failure

    before = contents(saved.parent)
    monkeypatch.setattr(safetensors.torch, "save_file", save_file)
    with pytest.raises(OSError, match="no space left while saving .*what was there before is untouched") as caught:
        tiny(seed=1).save_pretrained(saved)
    assert caught.value.errno == errno.ENOSPC
    with pytest.raises(OSError, match="nothing was written"):
        tiny(seed=1).save_pretrained(saved.with_name("new"))
    assert contents(saved.parent) == before
    assert [path.name for path in saved.parent.iterdir()] == ["model"]


def test_an_interrupted_save_leaves_the_previous_checkpoint(
    tiny: Callable, saved: Path, monkeypatch: pytest.MonkeyPatch
):
    def save_file(tensors, path: Path, **more) -> None:
        raise KeyboardInterrupt

    before = contents(saved.parent)
    monkeypatch.setattr(safetensors.torch, "save_file", save_file)
    with pytest.raises(KeyboardInterrupt):
        tiny(seed=1).save_pretrained(saved)
    assert contents(saved.parent) == before


def test_an_unknown_device_is_refused(saved: Path):
    with pytest.raises(ValueError, match="device 'abacus' can't be used here"):
        Plantain.from_pretrained(saved, "abacus")
