"""Pictures of several sizes go the whole way: encoded, trained on, drawn and judged."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from data.pictures import by_shape, grid
from data.shapes.source import ShapesConfig
from metrics.adherence import measure
from model import Plantain
from model.objective import ModelTraining
from model.transformer import ModelConfig
from runtime.loop import LoopConfig, train
from tokenizer.image import ImageTokenizerConfig
from tokenizer.objective import TokenizerTraining

SIZES = ((48, 32), (32, 32), (32, 48))


def shapes(split: str, num_examples: int, sizes: tuple[tuple[int, int], ...] = SIZES) -> ShapesConfig:
    return ShapesConfig(num_examples, split=split, world="shapes32", image_size=32, sizes=sizes)


@pytest.fixture
def config(tiny_image_tokenizer: Callable, tmp_path: Path) -> ModelTraining:
    tokenizer = tmp_path / "tokenizer"
    tiny_image_tokenizer().save_pretrained(tokenizer)
    return ModelTraining(
        LoopConfig(str(tmp_path / "model"), num_steps=4, batch_size=6, log_every=1),
        shapes("train", 24),
        shapes("val", 8),
        str(tokenizer),
        ModelConfig(dim=32, depth=1, num_heads=2, num_kv_heads=1, head_dim=16, mlp_dim=32, max_length=160),
        num_text=280,
        num_samples=6,
    )


def test_a_model_of_three_sizes_trains_and_draws_each_and_no_other(config: ModelTraining):
    folder = train(config)
    plantain = Plantain.from_pretrained(folder, "cpu")
    assert plantain.grids == [(8, 8), (8, 12), (12, 8)]  # what it draws by itself is square
    assert plantain.generate("a red circle").images[0].size == (32, 32)
    for height, width in SIZES:
        result = plantain.generate("a red circle", num_images=2, size=(height, width), guidance=2.0)
        assert {image.size for image in result.images} == {(width, height)}
    with pytest.raises(ValueError, match="48x48 .* was never trained: this model draws 32x32, 32x48, 48x32"):
        plantain.generate("a red circle", size=(48, 48))

    figures = measure(plantain, "test", 7, "shapes32", seed=0, settings={})
    assert figures["num_prompts"] == figures["facts"]["count"]["stated"] == 7


def test_validation_draws_each_prompt_in_the_size_of_its_example(
    config: ModelTraining, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    objective = config.build(torch.device("cpu"))
    judged: dict[int, np.ndarray] = {}
    verdict = objective.validation.verdict

    def spy(index: int, image: np.ndarray):
        judged[index] = image
        return verdict(index, image)

    monkeypatch.setattr(objective.validation, "verdict", spy)
    figures = objective.evaluate(objective.model, tmp_path)
    assert 0 <= figures["prompt_adherence"] <= 1
    examples = [objective.validation[index] for index in range(6)]
    assert len({example.image.shape for example in examples}) == 3
    assert [judged[index].shape for index in range(6)] == [example.image.shape for example in examples]
    plantain = objective.plantain(objective.model.transformer)
    for places in by_shape(example.image for example in examples):
        height, width, _ = examples[places[0]].image.shape
        texts = [examples[place].text for place in places]
        drawn = plantain.generate(texts, size=(height, width), first=places)
        for place, image in zip(places, drawn.images, strict=True):
            assert np.array_equal(judged[place], np.asarray(image))
    assert Image.open(tmp_path / "samples.png").size == (3 * 50 - 2, 2 * 50 - 2)


def test_validation_in_a_size_that_is_not_trained_is_refused_at_the_start(config: ModelTraining):
    wrong = ModelTraining(
        config.loop, shapes("train", 8, ((32, 48),)), shapes("val", 8, ((48, 32),)), config.tokenizer, config.network
    )
    with pytest.raises(ValueError, match="validation has pictures of 12x8 codes, but data only of 8x12"):
        wrong.build(torch.device("cpu"))


def test_a_tokenizer_is_judged_on_all_sizes_but_trained_on_one(config: ModelTraining, tmp_path: Path):
    network = ImageTokenizerConfig()
    training = TokenizerTraining(config.loop, shapes("train", 12), shapes("val", 7), network)
    objective = training.build(torch.device("cpu"))
    figures = objective.evaluate(objective.model.eval(), tmp_path)
    assert np.isfinite(list(figures.values())).all() and 0 <= figures["same_scene"] <= 1
    assert (tmp_path / "originals and reconstructions.png").is_file()
    items = [objective.dataset()[0, index] for index in range(12)]
    with pytest.raises(
        ValueError, match="pictures of 32x32, 32x48, 48x32 pixels: train an image tokenizer on one size"
    ):
        objective.collate(items)


def test_what_can_be_stacked_is_found_in_order():
    arrays = [np.zeros(shape) for shape in ((2, 3), (3, 2), (2, 3), (1,), (3, 2))]
    assert by_shape(arrays) == [[0, 2], [1, 4], [3]]


def test_a_sheet_has_room_for_the_largest_picture():
    wide, tall = np.full((4, 6, 3), 10, np.uint8), np.full((6, 4, 3), 20, np.uint8)
    sheet = np.asarray(grid([wide, tall], columns=2, gap=1))
    assert sheet.shape == (6, 13, 3)
    assert (sheet[:4, :6] == 10).all() and (sheet[:, 7:11] == 20).all()
    assert (sheet[4:, :6] == 255).all() and (sheet[:, 11:] == 255).all()
