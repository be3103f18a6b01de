"""How good a reconstruction is, and how well the codebook is used. Images are in [-1, 1]: a data range of 2."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

Images = Float[Tensor, "b 3 H W"]
DATA_RANGE = 2.0


def psnr(reconstruction: Images, images: Images) -> Float[Tensor, " b"]:
    """Peak signal-to-noise ratio of each image, in dB."""
    error = ((reconstruction - images) ** 2).mean((1, 2, 3)).clamp_min(1e-10)
    return 10 * torch.log10(DATA_RANGE**2 / error)


def ssim(reconstruction: Images, images: Images) -> Float[Tensor, " b"]:
    """Structural similarity of each image, averaged over its colours: 1 for equal images.

    Source: Wang et al., "Image Quality Assessment: From Error Visibility to Structural Similarity", equation 13, with
    the paper's Gaussian window of 11 pixels and standard deviation 1.5, where it lies wholly inside the image.
    """
    offsets = torch.arange(11, device=images.device, dtype=images.dtype) - 5
    line = torch.exp(-(offsets**2) / (2 * 1.5**2))
    window = torch.outer(line, line) / line.sum() ** 2
    window = window.expand(3, 1, 11, 11)

    def blur(x: Tensor) -> Tensor:
        return F.conv2d(x, window, groups=3)

    stable_mean, stable_variance = (0.01 * DATA_RANGE) ** 2, (0.03 * DATA_RANGE) ** 2
    mean_a, mean_b = blur(reconstruction), blur(images)
    variance_a = blur(reconstruction**2) - mean_a**2
    variance_b = blur(images**2) - mean_b**2
    covariance = blur(reconstruction * images) - mean_a * mean_b
    luminance = (2 * mean_a * mean_b + stable_mean) / (mean_a**2 + mean_b**2 + stable_mean)
    structure = (2 * covariance + stable_variance) / (variance_a + variance_b + stable_variance)
    return (luminance * structure).mean((1, 2, 3))


def codebook_use(counts: Int[Tensor, " codebook_size"]) -> tuple[float, float]:
    """From how often each code was drawn: the share of codes drawn at all, and the perplexity of their distribution."""
    shares = counts.double() / counts.sum().clamp_min(1)
    entropy = -(shares * shares.clamp_min(1e-30).log()).sum()
    return float((counts > 0).double().mean()), float(entropy.exp())
