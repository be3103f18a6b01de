"""The loss of the autoregressive model, id by id."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch

from model.objective import LanguageModel, batch_of
from model.transformer import ModelConfig
from tokenizer.sequence import pack
from tokenizer.vocabulary import TEXT_START, Vocabulary


def test_the_loss_is_as_by_hand(tiny_transformer: Callable):
    """Id by id: weights, blocks and z-loss all belong to the id that is predicted; examples count alike."""
    vocabulary = Vocabulary(num_text=256, codebook_size=5)
    transformer = tiny_transformer(vocabulary.size)
    model = LanguageModel(transformer, vocabulary, z_loss=0.01)
    from tasks.text_to_image import text_to_image

    codes = np.array([[0, 4], [2, 1]])
    packs = [
        pack(text_to_image(text, codes, 0.25), vocabulary, "grid")
        for text in ([TEXT_START + 3, TEXT_START + 9], [], [TEXT_START + 200])
    ]
    means, losses = [], {"image": [], "text": []}
    for packed in packs:
        total, weight = 0.0, 0.0
        hidden = transformer(torch.from_numpy(packed.ids)[None], torch.from_numpy(packed.positions)[None])
        logits = transformer.logits(hidden)[0].detach()
        for place in range(1, len(packed.ids)):
            if packed.weights[place] == 0:
                continue
            block = vocabulary.image_block if packed.is_image[place] else vocabulary.text_block
            allowed = logits[place - 1, block].double()
            normaliser = math.log(allowed.exp().sum())
            loss = normaliser - float(logits[place - 1, packed.ids[place]])
            losses["image" if packed.is_image[place] else "text"].append((loss, packed.weights[place]))
            total += packed.weights[place] * (loss + 0.01 * normaliser**2)
            weight += packed.weights[place]
        means.append(total / weight)
    assert weight == pytest.approx((4 + 2) + 0.25)  # the codes, <image> and <end>, and the last caption's one id

    found, figures = model(**batch_of(packs), step=0)
    assert float(found.detach()) == pytest.approx(np.mean(means), rel=1e-5)
    for name, pairs in losses.items():  # each id weighs as it counts
        values, counts = zip(*pairs, strict=True)
        assert float(figures[f"{name}_loss"]) == pytest.approx(np.average(values, weights=counts), rel=1e-5)


def test_an_untrained_model_is_as_unsure_as_its_vocabulary_is_large():
    from model.transformer import Transformer

    torch.manual_seed(0)
    vocabulary = Vocabulary(num_text=256, codebook_size=500)
    config = ModelConfig(dim=32, depth=2, num_heads=4, num_kv_heads=2, head_dim=8, mlp_dim=48, max_length=64)
    model = LanguageModel(Transformer(config, vocabulary.size), vocabulary, z_loss=0.0)
    ids = torch.randint(vocabulary.image_start, vocabulary.size, (4, 30))
    positions = torch.arange(30)[None, :, None].expand(4, 30, 2)
    loss, _ = model(ids, positions, torch.ones(4, 30), torch.arange(4 * 29), torch.arange(0), step=0)
    assert float(loss.detach()) == pytest.approx(math.log(500), rel=0.02)


@pytest.mark.compile
def test_the_loss_is_one_graph(tiny_transformer: Callable):
    """Nothing in it waits for the device or stops the compiler."""
    from tasks.text_to_image import text_to_image

    vocabulary = Vocabulary(num_text=256, codebook_size=5)
    model = LanguageModel(tiny_transformer(vocabulary.size), vocabulary, z_loss=0.01)
    packs = [pack(text_to_image([TEXT_START + 3], np.zeros((2, 2), int), 0.25), vocabulary, "grid") for _ in range(2)]
    found = torch._dynamo.explain(model)(**batch_of(packs), step=0)
    assert found.graph_count == 1 and not found.break_reasons
