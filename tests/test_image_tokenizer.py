"""Images become codes and come back; figures and losses are what their formulas say."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from data.pictures import turn_hue
from data.shapes.source import ShapesConfig
from runtime.loop import LoopConfig
from runtime.optimizer import OptimizerConfig, build_optimizers
from tokenizer.autoencoder import AutoencoderConfig
from tokenizer.image import ImageTokenizer, ImageTokenizerConfig
from tokenizer.losses import PatchDiscriminator, PerceptualDistance, hinge_loss, pixel_loss
from tokenizer.objective import ReconstructionLossConfig, Reconstructor, TokenizerTraining
from tokenizer.quality import codebook_use, psnr, ssim
from tokenizer.quantizer import CosineVQConfig, FSQConfig, LFQConfig, Quantizer, QuantizerConfig, SimVQConfig

QUANTIZERS: dict[str, QuantizerConfig] = {
    "fsq": FSQConfig(levels=(4, 3, 3)),
    "cosine_vq": CosineVQConfig(codebook_size=16, code_dim=4),
    "simvq": SimVQConfig(codebook_size=16, code_dim=4),
    "lfq": LFQConfig(codebook_size=16),
}
each_quantizer = pytest.mark.parametrize("kind", QUANTIZERS)


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@pytest.mark.parametrize(
    ("patch", "widths", "stride"), [(4, (32,), 4), (2, (32, 32), 4), (4, (32, 32), 8), (4, (32, 32, 32), 16)]
)
def test_codes_stand_one_for_each_stride_x_stride_square(
    tiny_image_tokenizer: Callable, patch: int, widths: tuple[int, ...], stride: int
):
    tokenizer: ImageTokenizer = tiny_image_tokenizer(patch=patch, widths=widths)
    assert tokenizer.stride == stride
    images = noise(2, 3, 2 * stride, 3 * stride)
    codes = tokenizer.encode(images)
    assert codes.shape == (2, 2, 3) and codes.dtype == torch.int64
    decoded = tokenizer.decode(codes)
    assert decoded.shape == images.shape and decoded.min() >= -1 and decoded.max() <= 1
    result = tokenizer(images)
    assert torch.equal(result.codes, codes)
    torch.testing.assert_close(result.images.clamp(-1, 1), decoded, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("kernel", "reach"), [(1, 0), (3, 4)])
def test_a_code_depends_on_its_surroundings_alone(tiny_image_tokenizer: Callable, kernel: int, reach: int):
    encoder = tiny_image_tokenizer(encoder_kernel=kernel).encoder
    torch.manual_seed(0)
    for parameter in encoder.parameters():  # a residual block begins as the identity and would hide its reach
        torch.nn.init.normal_(parameter, std=0.3)
    images = noise(1, 3, 60, 60)
    other = images.clone()
    other[:, :, 28:32, 28:32] = noise(1, 3, 4, 4, seed=1)
    changed = (encoder(images) != encoder(other)).any(1)[0]
    assert changed[7, 7]
    rows, columns = changed.nonzero(as_tuple=True)
    for places in (rows, columns):
        assert places.min() >= 7 - reach and places.max() <= 7 + reach


@pytest.mark.parametrize("size", [(8, 9), (9, 8), (3, 3), (0, 8)])
def test_a_size_without_a_grid_is_refused(tiny_image_tokenizer: Callable, size: tuple[int, int]):
    tokenizer = tiny_image_tokenizer()
    for method in (tokenizer.encode, tokenizer):
        with pytest.raises(ValueError, match="crop or resize each side to a multiple of 4"):
            method(torch.zeros(1, 3, *size))


@pytest.mark.parametrize("code", [-1, 9])
def test_a_code_outside_the_codebook_is_refused(tiny_image_tokenizer: Callable, code: int):
    with pytest.raises(ValueError, match=r"codes must lie in \[0, 9\), got"):
        tiny_image_tokenizer().decode(torch.tensor([[[0, code]]]))


@each_quantizer
def test_values_are_those_of_their_codes(kind: str):
    torch.manual_seed(0)
    config = QUANTIZERS[kind]
    quantizer = Quantizer(config).eval()
    features = torch.randn(3, config.code_dim, 5, 4) * 2
    quantized = quantizer(features)
    assert quantized.values.shape == features.shape and quantized.codes.shape == (3, 5, 4)
    assert 0 <= quantized.codes.min() and quantized.codes.max() < config.codebook_size
    assert len(quantized.codes.unique()) > 4
    torch.testing.assert_close(quantizer.decode(quantized.codes), quantized.values, atol=1e-6, rtol=0)


@each_quantizer
def test_every_code_has_a_value_of_its_own(kind: str):
    torch.manual_seed(0)
    config = QUANTIZERS[kind]
    values = Quantizer(config).eval().decode(torch.arange(config.codebook_size)[None, None])
    assert values.shape == (1, config.code_dim, 1, config.codebook_size)
    distances = torch.cdist(values[0, :, 0].T, values[0, :, 0].T) + torch.eye(config.codebook_size)
    assert distances.min() > 1e-3


@each_quantizer
def test_gradients_reach_the_encoder_and_a_step_changes_its_weights(tiny_image_tokenizer: Callable, kind: str):
    tokenizer: ImageTokenizer = tiny_image_tokenizer(quantizer=QUANTIZERS[kind]).train()
    images = noise(4, 3, 8, 8)
    before = [parameter.clone() for parameter in tokenizer.encoder.parameters()]
    optimizer = torch.optim.SGD(tokenizer.parameters(), lr=0.1)
    losses = []
    for _ in range(8):
        result = tokenizer(images)
        loss = pixel_loss(result.images, images, 0.2)
        (loss + result.quantizer_loss).backward()
        losses.append(float(loss.detach()))
        for part in (tokenizer.encoder, tokenizer.decoder):
            for name, parameter in part.named_parameters():
                assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        optimizer.step()
        optimizer.zero_grad()
    assert losses[-1] < losses[0]
    # The second convolution of a residual block begins at zero: what comes before it moves from the second step on.
    for old, new in zip(before, tokenizer.encoder.parameters(), strict=True):
        assert not torch.equal(old, new)


@each_quantizer
def test_in_eval_mode_neither_encoding_nor_decoding_changes_a_tokenizer(tiny_image_tokenizer: Callable, kind: str):
    tokenizer = tiny_image_tokenizer(quantizer=QUANTIZERS[kind])
    before = {name: tensor.clone() for name, tensor in tokenizer.state_dict().items()}
    codes = tokenizer.encode(noise(4, 3, 16, 16))
    tokenizer.decode(codes)
    assert torch.equal(tokenizer.encode(noise(4, 3, 16, 16)), codes)
    for name, tensor in tokenizer.state_dict().items():
        assert torch.equal(tensor, before[name]), name


@each_quantizer
def test_a_saved_tokenizer_gives_the_same_codes_under_the_same_name(
    tiny_image_tokenizer: Callable, kind: str, tmp_path: Path
):
    tokenizer: ImageTokenizer = tiny_image_tokenizer(quantizer=QUANTIZERS[kind])
    tokenizer.save_pretrained(tmp_path / "a")
    again = ImageTokenizer.from_pretrained(tmp_path / "a")
    assert again.config == tokenizer.config and again.digest == tokenizer.digest and not again.training
    images = noise(2, 3, 16, 16)
    assert torch.equal(again.encode(images), tokenizer.encode(images))
    assert torch.equal(again.decode(again.encode(images)), tokenizer.decode(tokenizer.encode(images)))


def test_a_digest_names_config_and_weights_but_the_decoders(tiny_image_tokenizer: Callable):
    digests = {tiny_image_tokenizer().digest, tiny_image_tokenizer().digest}
    assert len(digests) == 1
    for name in tiny_image_tokenizer().state_dict():
        tokenizer = tiny_image_tokenizer()
        tensor = tokenizer.state_dict()[name]
        if not tensor.is_floating_point():
            continue
        tensor.view(-1)[-1] += 1e-3
        assert (tokenizer.digest in digests) == name.startswith("decoder."), name
    other = ImageTokenizer(replace(tiny_image_tokenizer().config, quantizer=LFQConfig(codebook_size=4)))
    other.encoder, other.decoder = tiny_image_tokenizer().encoder, tiny_image_tokenizer().decoder
    assert other.digest not in digests


def test_encoding_is_in_fp32_under_autocast(tiny_image_tokenizer: Callable):
    tokenizer: ImageTokenizer = tiny_image_tokenizer(quantizer=FSQConfig(levels=(8, 8, 8)))
    images = noise(8, 3, 32, 32)
    codes = tokenizer.encode(images)
    types = []
    tokenizer.encoder.register_forward_hook(lambda module, given, result: types.append(result.dtype))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(tokenizer.encode(images), codes)
        tokenizer(images)
    assert types == [torch.float32, torch.bfloat16]  # while training may well use the faster arithmetic


@pytest.mark.parametrize(
    "make",
    [
        lambda: AutoencoderConfig(widths=(48,)),
        lambda: AutoencoderConfig(widths=()),
        lambda: AutoencoderConfig(patch=0),
        lambda: FSQConfig(levels=(8, 2)),
        lambda: FSQConfig(levels=()),
        lambda: LFQConfig(codebook_size=100),
        lambda: ReconstructionLossConfig(perceptual_weight=0.1),
    ],
)
def test_a_config_that_can_not_be_built_is_refused(make: Callable):
    with pytest.raises(ValueError, match="widths|FSQ needs|power of two|names no file"):
        make()


def test_psnr_is_the_formula_by_hand():
    images = noise(2, 3, 16, 16) * 0.5
    shifted = images + torch.tensor([0.2, 0.02])[:, None, None, None]
    # the range of images is 2: 10 log10(2^2 / 0.2^2) = 20
    torch.testing.assert_close(psnr(shifted, images), torch.tensor([20.0, 40.0]), atol=1e-3, rtol=0)
    assert psnr(images, images).min() > 90


def ssim_by_loops(a: np.ndarray, b: np.ndarray, data_range: float) -> float:
    """Wang et al. 2004, equation 13, pixel by pixel; images are (3, height, width)."""
    window = np.array([[math.exp(-(x * x + y * y) / (2 * 1.5**2)) for x in range(-5, 6)] for y in range(-5, 6)])
    window /= window.sum()
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    results = []
    for channel in range(3):
        for top in range(a.shape[1] - 10):
            for left in range(a.shape[2] - 10):
                x, y = (image[channel, top : top + 11, left : left + 11].astype(np.float64) for image in (a, b))
                mx, my = (window * x).sum(), (window * y).sum()
                vx, vy = (window * (x - mx) ** 2).sum(), (window * (y - my) ** 2).sum()
                cov = (window * (x - mx) * (y - my)).sum()
                results.append((2 * mx * my + c1) * (2 * cov + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2)))
    return float(np.mean(results))


def test_ssim_is_the_formula_computed_by_loops_with_a_range_of_two():
    images = noise(2, 3, 14, 16) * 0.05 + 0.3  # little contrast, where the constants matter
    reconstruction = images + 0.03 * noise(2, 3, 14, 16, seed=1)
    pairs = [(a.numpy(), b.numpy()) for a, b in zip(reconstruction, images, strict=True)]
    expected = torch.tensor([ssim_by_loops(a, b, data_range=2.0) for a, b in pairs])
    torch.testing.assert_close(ssim(reconstruction, images), expected, atol=1e-3, rtol=0)
    wrong = torch.tensor([ssim_by_loops(a, b, data_range=1.0) for a, b in pairs])
    assert (expected - wrong).abs().min() > 0.01


def test_ssim_of_equal_and_of_flat_images_is_as_by_hand():
    images = noise(2, 3, 16, 16)
    torch.testing.assert_close(ssim(images, images), torch.ones(2))
    flat = torch.full((1, 3, 16, 16), 0.5)
    by_hand = (2 * 0.5 * 0.1 + 0.02**2) / (0.5**2 + 0.1**2 + 0.02**2)  # only the luminance differs
    assert float(ssim(flat, flat - 0.4)) == pytest.approx(by_hand, abs=1e-3)
    assert float(ssim(0.5 + 0.3 * images[:1], 0.5 - 0.3 * images[:1])) < 0  # the opposite structure


@pytest.mark.parametrize(
    ("counts", "share", "perplexity"),
    [
        ([2, 2, 0, 0], 0.5, 2.0),
        ([5, 5, 5, 5], 1.0, 4.0),
        ([7, 0, 0, 0], 0.25, 1.0),
        ([3, 1], 1.0, math.exp(-0.75 * math.log(0.75) - 0.25 * math.log(0.25))),
    ],
)
def test_use_of_the_codebook_is_as_by_hand(counts: list[int], share: float, perplexity: float):
    assert codebook_use(torch.tensor(counts)) == pytest.approx((share, perplexity))


def test_the_pixel_loss_is_as_by_hand():
    images = torch.zeros(1, 3, 2, 2)
    reconstruction = torch.full((1, 3, 2, 2), -0.5)
    assert float(pixel_loss(reconstruction, images, 0.0)) == 0.25
    assert float(pixel_loss(reconstruction, images, 0.2)) == pytest.approx(0.25 + 0.2 * 0.5)


def test_the_hinge_loss_is_as_by_hand():
    real, reconstructed = torch.tensor([2.0, 0.5]), torch.tensor([-3.0, 0.5])
    assert float(hinge_loss(real, reconstructed)) == pytest.approx(((0 + 0.5) / 2 + (0 + 1.5) / 2) / 2)
    assert float(hinge_loss(torch.tensor([1.0]), torch.tensor([-1.0]))) == 0


def test_the_discriminator_judges_patches():
    torch.manual_seed(0)
    scores = PatchDiscriminator()(noise(2, 3, 32, 48))
    assert scores.ndim == 4 and scores.shape[:2] == (2, 1) and scores.shape[2] > 1 and scores.shape[3] > scores.shape[2]


def training(quantizer: QuantizerConfig = QUANTIZERS["fsq"], **loss) -> TokenizerTraining:
    network = ImageTokenizerConfig(AutoencoderConfig(patch=2, widths=(32, 32), num_blocks=1), quantizer)
    shapes = ShapesConfig(num_examples=2, image_size=32, world="shapes32")
    return TokenizerTraining(LoopConfig("unused", 1), shapes, shapes, network, ReconstructionLossConfig(**loss))


def reconstructor(**loss) -> Reconstructor:
    torch.manual_seed(0)
    return Reconstructor(training(FSQConfig(levels=(5, 5, 5)), **loss))


@each_quantizer
def test_a_decoder_learns_on_while_the_codes_stay(kind: str, tmp_path: Path):
    plain = Reconstructor(training(QUANTIZERS[kind])).tokenizer
    plain.save_pretrained(tmp_path)
    model = Reconstructor(replace(training(QUANTIZERS[kind]), start=str(tmp_path), trained="decoder"))
    assert model.tokenizer.digest == plain.digest
    before = {name: tensor.clone() for name, tensor in model.tokenizer.state_dict().items()}
    optimizers = build_optimizers(model.named_parameters(), [], OptimizerConfig())
    for step in range(3):
        model(noise(2, 3, 32, 32), step)[0].backward()
        for optimizer in optimizers:
            optimizer.step()
    changed = {name.split(".")[0] for name, now in model.tokenizer.state_dict().items() if (now != before[name]).any()}
    assert changed == {"decoder"}


def test_a_start_that_does_not_fit_is_refused(tmp_path: Path):
    Reconstructor(training()).tokenizer.save_pretrained(tmp_path)
    other = ImageTokenizerConfig(AutoencoderConfig(widths=(32,)))
    with pytest.raises(ValueError, match="is of another network"):
        Reconstructor(replace(training(), start=str(tmp_path), network=other))
    with pytest.raises(ValueError, match="start names no image tokenizer"):
        replace(training(), trained="decoder")


def test_codes_alone_are_decoded_as_if_there_were_none_around():
    tokenizer = reconstructor().tokenizer
    values = tokenizer(noise(2, 3, 8, 12)).values
    alone = tokenizer.decode_alone(values)
    assert alone.shape == (2, 3, 8, 12)
    for row in range(2):
        for column in range(3):
            square = alone[1, :, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4]
            single = tokenizer.decoder(values[1:, :, row : row + 1, column : column + 1])[0]
            torch.testing.assert_close(square, single)


def test_what_codes_show_alone_counts_as_it_weighs():
    images = noise(8, 3, 32, 32)
    plain, model = reconstructor(), reconstructor(alone_weight=0.5)
    (before, _), (after, figures) = plain(images, 0), model(images, 0)
    values = model.tokenizer(images).values[[0, 4]]
    expected = pixel_loss(model.tokenizer.decode_alone(values), images[[0, 4]], 0.2)
    assert float(figures["alone"]) == pytest.approx(float(expected.detach()), rel=1e-5)
    assert float(after.detach()) == pytest.approx(float((before + 0.5 * expected).detach()), rel=1e-5)
    (after - before.detach()).backward()
    assert all(gradient is not None for gradient in gradients(model.tokenizer.encoder).values())


def gradients(module: torch.nn.Module) -> dict[str, torch.Tensor | None]:
    return {name: parameter.grad for name, parameter in module.named_parameters()}


def test_adversarial_terms_begin_at_their_steps():
    images = noise(2, 3, 32, 32)
    plain = reconstructor()
    plain(images, 0)[0].backward()
    expected = gradients(plain.tokenizer)
    for step, learns, counts in ((0, False, False), (49, False, False), (50, True, False), (100, True, True)):
        model = reconstructor(adversarial_weight=0.5, adversarial_start=100)
        model.tokenizer.load_state_dict(plain.tokenizer.state_dict())
        loss, figures = model(images, step)
        loss.backward()
        assert model.discriminator is not None
        assert ("discriminator" in figures) == learns
        moved = [gradient is not None and bool(gradient.any()) for gradient in gradients(model.discriminator).values()]
        assert any(moved) == learns
        same = [torch.allclose(expected[name], found, atol=1e-7) for name, found in gradients(model.tokenizer).items()]
        assert all(same) != counts  # while the discriminator only learns, the tokenizer notices nothing
        assert not counts or not any(same[-4:])


def test_the_discriminators_gradient_is_that_of_its_own_loss_alone():
    images = noise(2, 3, 32, 32)
    model = reconstructor(adversarial_weight=50.0, adversarial_start=0)
    model(images, 0)[0].backward()
    assert model.discriminator is not None
    found = gradients(model.discriminator)
    model.zero_grad()
    with torch.no_grad():
        reconstruction = model.tokenizer(images).images
    hinge_loss(model.discriminator(images), model.discriminator(reconstruction)).backward()
    for name, expected in gradients(model.discriminator).items():
        torch.testing.assert_close(found[name], expected, atol=1e-6, rtol=1e-4)


def test_the_adversarial_gradient_is_as_long_as_the_rest_at_the_last_layer():
    images = noise(2, 3, 32, 32)
    last = []
    for weight, start in ((0.7, 0), (0.7, 10**9)):
        model = reconstructor(adversarial_weight=weight, adversarial_start=start)
        model(images, 0)[0].backward()
        last.append(model.tokenizer.decoder.last_weight.grad)
    assert float((last[0] - last[1]).norm()) == pytest.approx(0.7 * float(last[1].norm()), rel=0.05)


def vgg_weights() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    weights, previous = {}, 3
    stages = zip(PerceptualDistance.STAGES, PerceptualDistance.CHANNELS, strict=True)
    for stage, (layers, channels) in enumerate(stages):
        for layer in layers:
            scale = (2 / (9 * previous)) ** 0.5
            weights[f"features.{layer}.weight"] = torch.randn(channels, previous, 3, 3, generator=generator) * scale
            weights[f"features.{layer}.bias"] = torch.zeros(channels)
            previous = channels
        weights[f"lin{stage}"] = torch.rand(channels, generator=generator)
    return weights


def test_the_perceptual_distance_is_zero_for_equal_images_and_grows(tmp_path: Path):
    save_file(vgg_weights(), tmp_path / "vgg.safetensors")
    distance = PerceptualDistance(tmp_path / "vgg.safetensors")
    assert not list(distance.parameters())  # nothing in it learns
    images = noise(2, 3, 16, 16)
    assert float(distance(images, images)) == 0
    near, far = (float(distance(images + amount * noise(2, 3, 16, 16, seed=1), images)) for amount in (0.05, 0.5))
    assert 0 < near < far
    model = reconstructor(perceptual_weight=1.0, perceptual_weights=str(tmp_path / "vgg.safetensors"))
    loss, figures = model(images, 0)
    assert figures["perceptual"] > 0
    assert float(loss.detach()) == pytest.approx(float(figures["pixel"] + figures["perceptual"]), rel=1e-5)


def test_perceptual_weights_that_are_missing_or_misshapen_are_refused(tmp_path: Path):
    path = tmp_path / "vgg.safetensors"
    with pytest.raises(FileNotFoundError, match="no perceptual weights at .*set perceptual_weight to 0"):
        PerceptualDistance(path)
    save_file({"features.0.weight": torch.zeros(64, 3, 3, 3)}, path)
    with pytest.raises(ValueError, match="features.0.bias should be of shape .*, found nothing"):
        PerceptualDistance(path)
    save_file({"features.0.weight": torch.zeros(32, 3, 3, 3)}, path)
    with pytest.raises(
        ValueError, match=r"features.0.weight should be of shape \(64, 3, 3, 3\), found \(32, 3, 3, 3\)"
    ):
        PerceptualDistance(path)


def test_turning_the_hue_by_a_third_moves_red_to_green_and_leaves_grays_alone():
    red, gray = torch.tensor([0.8, -0.8, -0.8]), torch.full((3,), 0.3)
    images = torch.stack([red, red, gray])[:, :, None, None].expand(-1, -1, 2, 2)
    turned = turn_hue(images, torch.tensor([0.0, 120.0, 77.0]))
    for picture, colour in zip(turned, ([0.8, -0.8, -0.8], [-0.8, 0.8, -0.8], [0.3] * 3), strict=True):
        torch.testing.assert_close(picture[:, 1, 0], torch.tensor(colour), atol=1e-5, rtol=0)


@pytest.mark.parametrize("degrees", [-1.0, 181.0, math.nan])
def test_a_hue_jitter_out_of_range_is_refused(degrees: float):
    with pytest.raises(ValueError, match="hue_jitter is .* between 0 and 180 degrees"):
        ReconstructionLossConfig(hue_jitter=degrees)
