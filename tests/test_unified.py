"""A model learns several abilities from one set of examples, and can go on from what another has learnt."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from data.pictures import to_images
from metrics.release import _gathered, _keep, _shipped, main
from model import Plantain
from model.objective import ModelTraining, NextIdObjective
from model.sampling import SamplingConfig
from runtime.config import from_dict
from runtime.loop import train
from tokenizer.autoencoder import AutoencoderConfig
from tokenizer.image import ImageTokenizer, ImageTokenizerConfig
from tokenizer.quantizer import FSQConfig
from tokenizer.vocabulary import TEXT_START

NETWORK = dict(dim=32, depth=1, num_heads=2, num_kv_heads=1, head_dim=16, mlp_dim=48, max_length=320, rope_theta=100)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where an image tokenizer lies, random but whole."""
    path = tmp_path_factory.mktemp("unified")
    torch.manual_seed(0)
    autoencoder = AutoencoderConfig(patch=4, widths=(32, 32), num_blocks=1)
    ImageTokenizer(ImageTokenizerConfig(autoencoder, FSQConfig(levels=(3, 3)))).save_pretrained(path / "tokenizer")
    return path


def config(folder: Path, name: str, **changes) -> ModelTraining:
    data = dict(
        kind="shapes", world="shapes32", image_size=32, num_examples=12, num_questions=2, edits=True, sizes=[[32, 48]]
    )
    mixture = {name: 1 for name in ("text_to_image", "describe", "ask", "edit", "inpaint", "dialogue", "text")}
    loop = dict(out=str(folder / name), num_steps=2, batch_size=4, num_workers=0)
    base = dict(tokenizer=str(folder / "tokenizer"), network=NETWORK, data=data, validation=data, mixture=mixture)
    return from_dict(ModelTraining, base | dict(loop=loop, num_samples=2, num_text=300) | changes)


@pytest.fixture(scope="module")
def first(folder: Path) -> Path:
    """A checkpoint of a run on captions alone."""
    plain = dict(kind="shapes", world="shapes32", image_size=32, num_examples=12)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)  # where codes are kept
        return train(config(folder, "first", data=plain, validation=plain, mixture={"text_to_image": 1}))


@pytest.fixture(autouse=True)
def _cache(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(folder)  # where codes are kept


def test_every_ability_is_trained_in_one_run_and_comes_out_of_its_checkpoint(folder: Path, first: Path):
    plantain = Plantain.from_pretrained(train(config(folder, "all", start=str(first))), "cpu")
    assert plantain.grids == [(4, 6)]
    drawn = plantain.generate("a red circle").images[0]
    assert drawn.size == (48, 32) and plantain.edit(drawn, "make it blue").images[0].size == (48, 32)
    assert isinstance(plantain.describe(drawn)[0], str)


def test_a_release_brings_the_image_tokenizer_of_another_checkpoint_and_what_its_card_says(
    folder: Path, first: Path, monkeypatch: pytest.MonkeyPatch
):
    def release(out: str, *runs: Path, more: Sequence[str] = ()) -> Plantain:
        monkeypatch.setattr("sys.argv", ["release", out, "--runs", *map(str, runs), "--recipe", "guidance=3", *more])
        main()
        return Plantain.from_pretrained(out, "cpu")

    shipped = release("shipped", folder / "tokenizer", first.parent)
    assert list(shipped.card) == ["first"] and shipped.recipe.guidance == 3.0 and shipped.editing is None
    # as if another run had gone on from it
    again = release(
        "again",
        folder / "shipped",
        first.parent,
        more=["--editing", "temperature=0.5", "--choosing", "guidance=2", "--inpainting", "guidance=1.5"],
    )
    assert list(again.card) == ["first"] and again.card["first"] == shipped.card["first"]
    assert again.editing == SamplingConfig(guidance=3.0, temperature=0.5)
    assert again.choosing == SamplingConfig(guidance=2.0) and shipped.choosing is None
    assert again.inpainting == SamplingConfig(guidance=1.5) and shipped.inpainting is None
    assert again.image_tokenizer.digest == shipped.image_tokenizer.digest
    assert "- **first**: 2 steps" in Path("again/README.md").read_text()
    # the runs may be gone by the time that it is judged
    Path("docs/results").mkdir(parents=True)
    judged = {"command": "python -m metrics.abilities again", "seed": 0, "figures": {"test": {"ask": {"right": 0.75}}}}
    Path("docs/results/abilities-again.json").write_text(json.dumps(judged))
    weights = Path("again/model.safetensors").read_bytes()
    monkeypatch.setattr("sys.argv", ["release", "again"])
    main()
    text = Path("again/README.md").read_text()
    assert "- **first**: 2 steps" in text and "| test | 75.0% |" in text
    assert Path("again/model.safetensors").read_bytes() == weights
    monkeypatch.setattr("sys.argv", ["release", "again", "--keep", "0.1"])
    with pytest.raises(SystemExit):  # there is nothing to keep a share of
        main()


def test_a_card_tells_of_a_shipped_model_only_where_a_run_began_with_it(tmp_path: Path):
    model = {"steps": 3, "config": {"loop": {"out": "runs/older/model"}}}
    card = {"tokenizer": {"steps": 1}, "decoder": {"steps": 2}, "model": model}
    (tmp_path / "old").mkdir()
    (tmp_path / "old/config.json").write_text(json.dumps({"card": card}))
    assert _shipped(tmp_path / "old", whole=False) == {"tokenizer": {"steps": 1}, "decoder": {"steps": 2}}
    assert list(_shipped(tmp_path / "old", whole=True)) == ["tokenizer", "decoder", "older"]


def test_a_card_forgets_no_run_for_another_of_its_name(folder: Path, first: Path):
    _gathered([folder / "tokenizer", first.parent]).save_pretrained(folder / "once")
    later = train(config(folder, "later/first", start=str(folder / "once")))
    assert list(_gathered([folder / "once", later.parent]).card) == ["first", "later-first"]


def test_a_release_moves_weights_back_to_those_that_training_began_with(first: Path):
    begun, trained = Plantain.from_pretrained(first, "cpu"), Plantain.from_pretrained(first, "cpu")
    trained.card = {"tokenizer": {}, "model": {"config": {"start": str(first)}}}
    with torch.no_grad():
        trained.transformer.head.weight += 1
    _keep(trained, 0.25)
    torch.testing.assert_close(trained.transformer.head.weight, begun.transformer.head.weight + 0.75)
    assert trained.card["model"]["kept"] == 0.25
    with pytest.raises(ValueError, match="a share between 0 and 1"):
        _keep(trained, 1.0)


def test_what_another_model_knows_is_taken_over_piece_of_text_by_piece(folder: Path, first: Path):
    old = Plantain.from_pretrained(first, "cpu")
    objective = NextIdObjective(config(folder, "taken", start=str(first)), torch.device("cpu"))
    new = objective.model.transformer
    known, pieces = old.text_tokenizer.vocabulary(), objective.text_tokenizer.vocabulary()
    assert known.keys() != pieces.keys()
    for piece, token in pieces.items():
        if piece in known:
            assert torch.equal(new.embedding.weight[token], old.transformer.embedding.weight[known[piece]])
            assert torch.equal(new.head.weight[token], old.transformer.head.weight[known[piece]])
    assert torch.equal(new.head.weight[:TEXT_START], old.transformer.head.weight[:TEXT_START])
    images = (vocabulary.image_block for vocabulary in (objective.vocabulary, old.vocabulary))
    for mine, its in [(new.head.weight, old.transformer.head.weight)]:
        assert torch.equal(mine[next(images)], its[next(images)])
    assert torch.equal(new.blocks[0].mlp.up.weight, old.transformer.blocks[0].mlp.up.weight)


def test_codes_of_another_image_tokenizer_begin_as_those_in_their_places(folder: Path, first: Path):
    """The encoder's last channels the other way round: each code has another number, and all else is as before."""
    old = Plantain.from_pretrained(first, "cpu")
    mirrored = Plantain.from_pretrained(first, "cpu").image_tokenizer
    last = mirrored.encoder.layers[-1]
    with torch.no_grad():
        last.weight.neg_()  # pyright: ignore[reportCallIssue]
        last.bias.neg_()  # pyright: ignore[reportCallIssue]
    mirrored.save_pretrained(folder / "mirrored")
    changes = dict(tokenizer=str(folder / "mirrored"), start=str(first), mixture={"text_to_image": 1})
    objective = NextIdObjective(config(folder, "mirrored-model", **changes), torch.device("cpu"))
    assert objective.image_tokenizer.digest != old.image_tokenizer.digest
    images = to_images(np.stack([objective.source[index].image for index in range(12)]))
    ours, theirs = objective.image_tokenizer.encode(images), old.image_tokenizer.encode(images)
    assert (ours != theirs).float().mean() > 0.2
    new = objective.model.transformer
    for mine, its in ((new.embedding, old.transformer.embedding), (new.head, old.transformer.head)):
        rows, expected = mine.weight[objective.vocabulary.image_block], its.weight[old.vocabulary.image_block]
        torch.testing.assert_close(rows[ours], expected[theirs])


def test_codes_may_learn_alone(folder: Path, first: Path):
    plain = dict(kind="shapes", world="shapes32", image_size=32, num_examples=12)
    changes: dict[str, Any] = dict(data=plain, validation=plain, mixture={"text_to_image": 1}, trained="codes")
    still = dict(out=str(folder / "codes"), num_steps=2, batch_size=4, optimizer={"weight_decay": 0.0})
    checkpoint = train(config(folder, "codes", start=str(first), loop=still, **changes))
    before, after = (Plantain.from_pretrained(folder, "cpu") for folder in (first, checkpoint))
    start, begun = before.vocabulary.image_start, before.transformer.state_dict()
    for name, tensor in after.transformer.state_dict().items():
        if name in ("embedding.weight", "head.weight"):
            assert not torch.equal(tensor[start:], begun[name][start:])
            tensor, begun[name] = tensor[:start], begun[name][:start]
        torch.testing.assert_close(tensor, begun[name])  # but for the rounding of averages
    with pytest.raises(ValueError, match="start names no model that could stand still"):
        config(folder, "alone", loop=still, **changes)
    with pytest.raises(ValueError, match="weight_decay would move all else: set it to 0"):
        config(folder, "decayed", start=str(first), **changes)


def test_a_start_that_does_not_fit_is_refused(folder: Path, first: Path):
    with pytest.raises(ValueError, match="has the network .*dim=32.* but the config .*dim=64"):
        NextIdObjective(config(folder, "wide", start=str(first), network=NETWORK | {"dim": 64}), torch.device("cpu"))
    fine = ImageTokenizerConfig(AutoencoderConfig(patch=4, widths=(32,), num_blocks=1), FSQConfig(levels=(3, 3)))
    ImageTokenizer(fine).save_pretrained(folder / "fine")
    with pytest.raises(ValueError, match="learned codes of 8 pixels a side, but those of .* have 4"):
        NextIdObjective(config(folder, "finer", start=str(first), tokenizer=str(folder / "fine")), torch.device("cpu"))


def test_abilities_that_the_data_can_not_teach_are_refused(folder: Path):
    plain = dict(kind="shapes", world="shapes32", image_size=32, num_examples=12)
    wrong = config(folder, "wrong", data=plain, validation=plain)
    with pytest.raises(ValueError, match="needs questions, but the data has none"):
        train(wrong)
