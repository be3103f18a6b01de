"""On a GPU: what the CPU shows, the GPU shows too. Run with `pytest -m cuda`; skipped where there is none."""

import pytest
import torch

from model.sampling import SamplingConfig, draw, gumbel_noise, stack

pytestmark = pytest.mark.cuda


def arguments(device: str) -> list[torch.Tensor]:
    return [torch.arange(4, device=device), torch.arange(4, device=device) % 2, torch.arange(4, device=device) * 7]


def test_the_noise_is_the_same_on_gpu_and_cpu():
    ids = torch.arange(5000)
    on_cpu = gumbel_noise(*arguments("cpu"), ids)
    on_gpu = gumbel_noise(*arguments("cuda"), ids.cuda()).cpu()
    torch.testing.assert_close(on_gpu, on_cpu, rtol=1e-6, atol=1e-6)


def test_equal_logits_draw_equal_ids_on_gpu_and_cpu():
    logits = torch.randn(4, 1000, generator=torch.Generator().manual_seed(0))
    config = SamplingConfig(temperature=0.8, top_k=100, top_p=0.9, min_p=0.01)
    ids = torch.arange(384, 1384)
    on_cpu = draw(logits, stack([config]), *arguments("cpu"), ids)
    on_gpu = draw(logits.cuda(), stack([config], "cuda"), *arguments("cuda"), ids.cuda())
    assert torch.equal(on_cpu, on_gpu.cpu())


def test_a_model_draws_the_same_codes_in_fp32_on_gpu_and_cpu(tiny, tmp_path):
    from model import Plantain

    tiny().save_pretrained(tmp_path / "model")
    prompts = ["a red circle", "two large green squares"]
    drawn = {
        device: Plantain.from_pretrained(tmp_path / "model", device, "fp32").generate(
            prompts, num_images=3, guidance=2.0
        )
        for device in ("cpu", "cuda")
    }
    for on_cpu, on_gpu in zip(drawn["cpu"].codes, drawn["cuda"].codes, strict=True):
        assert (on_cpu == on_gpu).all()


def test_bf16_is_the_default_and_pictures_do_not_depend_on_the_batch(tiny, tmp_path):
    from model import Plantain

    tiny().save_pretrained(tmp_path / "model")
    plantain = Plantain.from_pretrained(tmp_path / "model", "cuda")
    assert plantain.transformer.head.weight.dtype == torch.bfloat16
    assert plantain.image_tokenizer.decoder.last_weight.dtype == torch.float32
    assert len(plantain.generate("a red circle", num_images=5).images) == 5
