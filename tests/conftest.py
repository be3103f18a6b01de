"""What holds for every test: no network, one thread, no cache but its own, and no GPU tests where there is no GPU."""

import os
import tempfile
from collections.abc import Callable

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"  # read when the library is imported, so before any test imports it
os.environ.setdefault("OMP_NUM_THREADS", "1")  # models this small are slower on many threads, and forks need one
_cache = tempfile.TemporaryDirectory(prefix="plantain-tests-")
os.environ["PLANTAIN_CACHE"] = _cache.name  # read when data.codes is imported

CAPTIONS = (
    "a small red circle and a large blue square on a white background",
    "two green rings to the left of a cyan cross",
    "three small yellow diamonds above a magenta triangle on a gray background",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    needs_cuda = [item for item in items if item.get_closest_marker("cuda")]
    if not needs_cuda:
        return
    import torch

    if not torch.cuda.is_available():
        for item in needs_cuda:
            item.add_marker(pytest.mark.skip(reason="needs an NVIDIA GPU"))


@pytest.fixture
def tiny_transformer() -> Callable:
    """Makes a transformer of dim 32, depth 2, 4:2 heads, with weights loud enough for its logits to differ."""
    import torch

    from model.transformer import ModelConfig, Transformer

    def make(vocabulary_size: int, seed: int = 0, loudness: float = 1.5, **changes) -> Transformer:
        sizes = dict(dim=32, depth=2, num_heads=4, num_kv_heads=2, head_dim=8, mlp_dim=48, max_length=64)
        config = ModelConfig(**(sizes | {"rope_theta": 100.0} | changes))
        transformer = Transformer(config, vocabulary_size)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for name, parameter in transformer.named_parameters():
                noise = torch.randn(parameter.shape, generator=generator)
                if parameter.ndim < 2:  # gains
                    parameter.copy_(1 + 0.2 * noise)
                else:
                    scale = 1.0 if name == "embedding.weight" else loudness * parameter.shape[1] ** -0.5
                    parameter.copy_(noise * scale)
        return transformer.eval()

    return make


@pytest.fixture(scope="session")
def text_tokenizer():
    """A byte-pair encoding trained on a few captions."""
    from tokenizer.text import TextTokenizer

    return TextTokenizer.train(CAPTIONS * 2, 320)


@pytest.fixture
def tiny_image_tokenizer() -> Callable:
    """Makes an image tokenizer with random weights: stride 4, nine codes."""
    import torch

    from tokenizer.autoencoder import AutoencoderConfig
    from tokenizer.image import ImageTokenizer, ImageTokenizerConfig
    from tokenizer.quantizer import FSQConfig

    def make(seed: int = 0, quantizer=None, **changes) -> ImageTokenizer:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            autoencoder = AutoencoderConfig(**{"patch": 2, "widths": (32, 32), "num_blocks": 1} | changes)
            return ImageTokenizer(ImageTokenizerConfig(autoencoder, quantizer or FSQConfig(levels=(3, 3)))).eval()

    return make


@pytest.fixture
def tiny(tiny_transformer: Callable, tiny_image_tokenizer: Callable, text_tokenizer) -> Callable:
    """Makes a whole Plantain with random weights that draws 8 x 8 and 8 x 12 pixels."""
    from model.plantain import Plantain
    from model.sampling import SamplingConfig
    from tasks.mixture import TASKS
    from tokenizer.vocabulary import Vocabulary

    def make(seed: int = 0, recipe: SamplingConfig | None = None, **changes) -> Plantain:
        image_tokenizer = tiny_image_tokenizer(seed)
        vocabulary = Vocabulary(text_tokenizer.num_text, image_tokenizer.codebook_size)
        transformer = tiny_transformer(vocabulary.size, seed, **changes)
        recipe = recipe or SamplingConfig(guidance=2.0)
        parts = transformer, image_tokenizer, text_tokenizer, recipe, [(2, 2), (2, 3)], {"steps": 3}
        return Plantain(*parts, abilities=tuple(TASKS))

    return make


@pytest.fixture
def chi_square() -> Callable:
    """Makes the p-value of counts under expected probabilities; rare outcomes are counted as one."""
    import torch

    def p_value(counts: torch.Tensor, probabilities: torch.Tensor) -> float:
        counts, probabilities = counts.double(), probabilities.double()
        assert counts[probabilities == 0].sum() == 0, "drew what can't be drawn"
        expected = probabilities * counts.sum()
        rare = expected < 5
        pairs = [(counts[~rare], expected[~rare])]
        if expected[rare].sum() >= 5:
            pairs.append((counts[rare].sum()[None], expected[rare].sum()[None]))
        observed, expected = (torch.cat(part) for part in zip(*pairs, strict=True))
        statistic = ((observed - expected) ** 2 / expected).sum()
        return float(torch.special.gammaincc(torch.tensor((len(observed) - 1) / 2).double(), statistic / 2))

    return p_value
