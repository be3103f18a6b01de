"""Judges that need weights or classes: their arithmetic, what they refuse, and that they fail on wrong pictures."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from data.shapes.source import Shapes, ShapesConfig
from metrics.classifier import Classifier, ClassifierTraining, label_of
from metrics.distances import frechet_distance, inception_score, kernel_distance
from metrics.extractors import RandomConvolutions, features_of, open_extractor
from metrics.inception import Inception, resize
from runtime.config import from_dict
from runtime.loop import train

ROOT = Path(__file__).parent.parent


def noise(count: int, side: int = 32, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, side, side, 3), np.uint8)


def test_distances_are_those_of_torchmetrics():
    fid = pytest.importorskip("torchmetrics.image.fid")
    kid = pytest.importorskip("torchmetrics.image.kid")

    class Flat(nn.Module):
        """Features that torchmetrics is given as they are."""

        num_features = 24

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.flatten(1)[:, :24].double()

    left, right = (torch.randn(100, 24, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    right = right * 1.3 + 0.2
    theirs = fid.FrechetInceptionDistance(Flat(), normalize=False).set_dtype(torch.float64)
    kernels = kid.KernelInceptionDistance(Flat(), subsets=1, subset_size=100)
    for metric in (theirs, kernels):
        metric.update(left.view(100, 24, 1, 1), real=True)
        metric.update(right.view(100, 24, 1, 1), real=False)
    assert frechet_distance(right, left) == pytest.approx(float(theirs.compute()), rel=1e-4)
    with pytest.warns(UserWarning, match="degrees of freedom"):  # one block tells no error
        ours = kernel_distance(right, left, num_blocks=1)
    assert ours.value == pytest.approx(float(kernels.compute()[0]), rel=1e-4)


def test_the_inception_score_counts_the_classes_that_are_told_surely():
    sure = torch.full((4000, 10), 1e-9).scatter_(1, (torch.arange(4000) % 10)[:, None], 1.0).log()
    assert inception_score(sure, num_splits=4).value == pytest.approx(10, rel=0.02)
    two = torch.full((4000, 10), 1e-9).scatter_(1, (torch.arange(4000) % 2)[:, None], 1.0).log()
    assert inception_score(two, num_splits=4).value == pytest.approx(2, rel=0.02)
    assert inception_score(torch.full((4000, 10), 0.1).log()).value == pytest.approx(1)
    with pytest.raises(ValueError, match="don't make 10 parts"):
        inception_score(sure[:15])


def test_inception_has_the_published_networks_parameters_and_names():
    network = Inception()
    # torchvision's 23,834,568 without its second head, and eight classes more
    assert sum(parameter.numel() for parameter in network.parameters()) == 23_834_568 + 8 * 2049
    names = set(network.state_dict())
    for name in (
        "Conv2d_1a_3x3.conv.weight",
        "Mixed_5b.branch5x5_2.bn.running_var",
        "Mixed_6a.branch3x3.conv.weight",
        "Mixed_6c.branch7x7dbl_5.conv.weight",
        "Mixed_7a.branch7x7x3_4.conv.weight",
        "Mixed_7c.branch3x3dbl_3b.conv.weight",
        "Mixed_7c.branch_pool.bn.weight",
        "fc.bias",
    ):
        assert name in names
    assert features_of(network, noise(2, 16)).shape == (2, 2048)


def test_pictures_are_resized_as_tensorflow_1_did():
    row = torch.tensor([0.0, 10.0, 20.0, 30.0]).view(1, 1, 1, 4).expand(1, 3, 4, 4)
    # places 0, 4/6, 8/6, ... of the old picture; past its last corner there is nothing to mix with
    expected = torch.tensor([0.0, 40 / 6, 80 / 6, 20.0, 160 / 6, 30.0])
    assert torch.allclose(resize(row, 6)[0, 0, 0], expected)
    assert torch.allclose(resize(row.transpose(2, 3), 6)[0, 0, :, 0], expected)


@pytest.mark.parametrize(
    ("description", "message"),
    [
        ("inception=nowhere.pth", "no Inception weights at nowhere.pth: expected the file pt_inception-2015-12-05"),
        ("clip=nowhere", "no clip weights at nowhere: expected config.json"),
        ("dinov2=nowhere", "no dinov2 weights at nowhere"),
        ("classifier=nowhere", "no checkpoint folder at nowhere"),
        ("inception", "'inception' is no extractor"),
        ("fid=x", "'fid=x' is no extractor"),
    ],
)
def test_what_an_extractor_lacks_is_said(description, message):
    with pytest.raises((FileNotFoundError, ValueError), match=message):
        open_extractor(description)


def test_other_weights_are_not_called_inceptions(tmp_path):
    torch.save(Inception().state_dict(), tmp_path / "weights.pth")
    with pytest.raises(ValueError, match="SHA-256 begins with [0-9a-f]{8}, not 6726825d"):
        open_extractor(f"inception={tmp_path / 'weights.pth'}")


@pytest.fixture(scope="module")
def local_networks(tmp_path_factory) -> Path:
    """CLIP and DINOv2 in little, with random weights, as `transformers` saves them."""
    hf = pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("networks")
    torch.manual_seed(0)
    small = dict(hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2)
    text = small | dict(vocab_size=300, max_position_embeddings=16, bos_token_id=0, eos_token_id=1, pad_token_id=1)
    vision = small | dict(image_size=32, patch_size=16)
    config = hf.CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)
    hf.CLIPModel(config).save_pretrained(folder / "clip")
    sizes = dict(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    hf.CLIPImageProcessorPil(**sizes).save_pretrained(folder / "clip")
    vocabulary = {"<|startoftext|>": 0, "<|endoftext|>": 1} | {
        f"{letter}</w>": 2 + i for i, letter in enumerate("abcdef")
    }
    vocabulary |= {letter: 10 + i for i, letter in enumerate("abcdef")}
    tokenizer = hf.CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=16)
    tokenizer.save_pretrained(folder / "clip")
    hf.Dinov2Model(hf.Dinov2Config(**small, image_size=32, patch_size=16)).save_pretrained(folder / "dinov2")
    hf.BitImageProcessorPil(**sizes).save_pretrained(folder / "dinov2")
    return folder


def test_local_networks_make_features_and_scores(local_networks):
    pictures = noise(5)
    clip, dino = (
        open_extractor(f"clip={local_networks / 'clip'}"),
        open_extractor(f"dinov2={local_networks / 'dinov2'}"),
    )
    assert features_of(clip, pictures).shape == (5, 8) and features_of(dino, pictures).shape == (5, 16)
    assert clip.name.startswith("clip(") and dino.name.startswith("dinov2(")
    assert torch.allclose(features_of(clip, pictures, 2), features_of(clip, pictures), atol=1e-5)
    scores = [clip.score(pictures, [text] * 5, batch_size=size) for text, size in (("a b", 2), ("a b", 5), ("f f", 5))]
    assert 0 <= scores[0] <= 100 and scores[0] == pytest.approx(scores[1], abs=1e-3) and scores[2] != scores[0]
    with pytest.raises(ValueError, match="5 pictures and 1 captions"):
        clip.score(pictures, ["a"])
    with pytest.raises(ValueError, match="holds a 'clip', not a 'dinov2'"):
        open_extractor(f"dinov2={local_networks / 'clip'}")


@pytest.fixture(scope="module")
def pictures_of_two_classes(tmp_path_factory) -> Path:
    """Bright and dark noise, in a folder for each class."""
    from PIL import Image

    folder = tmp_path_factory.mktemp("classes")
    for name, low in (("bright", 128), ("dark", 0)):
        (folder / name).mkdir()
        for number in range(60):
            pixels = np.random.default_rng((low, number)).integers(low, low + 128, (16, 16, 3), np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def trained(pictures_of_two_classes, tmp_path_factory) -> tuple[ClassifierTraining, Path]:
    out = tmp_path_factory.mktemp("classifier")
    data = {"kind": "images", "path": str(pictures_of_two_classes), "image_size": 16, "val_fraction": 0.5}
    loop = {"out": str(out / "run"), "num_steps": 40, "batch_size": 16, "ema_decay": 0.5, "num_workers": 0}
    loop["optimizer"] = {"learning_rate": 0.01, "warmup_steps": 2}
    tree = {"data": data | {"part": "train"}, "validation": data | {"part": "val"}, "widths": [8, 16], "loop": loop}
    config = from_dict(ClassifierTraining, tree)
    return config, train(config)


def test_a_classifier_learns_its_classes_and_fails_on_shuffled_ones(trained):
    from data.sources import open_source

    config, checkpoint = trained
    classifier, source = Classifier.from_pretrained(checkpoint), open_source(config.validation)
    assert classifier.classes == ("bright", "dark")
    examples = [source[index] for index in range(len(source))]
    said = classifier.classify(np.stack([example.image for example in examples]))
    true = [label_of(example) for example in examples]
    assert np.mean([one == other for one, other in zip(said, true, strict=True)]) > 0.9
    shuffled = np.random.default_rng(0).permutation(true)
    assert np.mean(np.array(said) == shuffled) < 0.75
    figures = [json.loads(line) for line in (Path(config.loop.out) / "metrics.jsonl").read_text().splitlines()]
    assert figures[-1]["part"] == "validation" and figures[-1]["accuracy"] > 0.9


def test_a_classifiers_name_is_that_of_its_weights(trained):
    classifier = Classifier.from_pretrained(trained[1])
    name = classifier.name
    assert open_extractor(f"classifier={trained[1]}").name == name
    with torch.no_grad():
        classifier.head.bias += 1
    assert classifier.name != name


def test_a_folder_without_a_classifier_and_pictures_without_classes_are_refused(trained):
    with pytest.raises(ValueError, match="holds no classifier"):
        Classifier.from_pretrained(ROOT / "checkpoints/shapes32")
    shapes = ShapesConfig(20, image_size=32, world="shapes32")
    with pytest.raises(ValueError, match="have no classes"):
        replace(trained[0], data=shapes, validation=shapes).build(torch.device("cpu"))


def test_the_checker_fails_on_shuffled_captions():
    source = Shapes(ShapesConfig(60, "val", 32, "shapes32"))
    images = [source[index].image for index in range(60)]
    assert np.mean([source.verdict(index, images[index]).ok for index in range(60)]) == 1
    assert np.mean([source.verdict(index, images[(index + 1) % 60]).ok for index in range(60)]) < 0.2


def test_the_command_goes_on_without_weights_that_are_missing(tmp_path):
    command = [sys.executable, "-m", "metrics", "checkpoints/shapes32", "--num-samples", "50"]
    command += ["--extractors", "random", "clip=nowhere", "--out", str(tmp_path / "figures.json")]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    assert "left out clip=nowhere: no clip weights at nowhere: expected config.json" in done.stdout
    assert "50 pictures are fewer than the 448 features" in done.stderr
    assert list(json.loads((tmp_path / "figures.json").read_text())["figures"]["extractors"]) == [
        RandomConvolutions().name
    ]
