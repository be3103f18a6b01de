"""Training and drawing by several processes together; slow, for each of them imports torch."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parent.parent


def test_two_processes_train_tokenizer_and_model_and_one_goes_on(tmp_path: Path):
    """A codebook that follows the data and a discriminator that waits are what processes most easily disagree on."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command = [
        *("train.py", "--config", "configs/debug.yaml"),
        *(f"tokenizer.loop.out={tmp_path}/tokenizer", f"model.loop.out={tmp_path}/model"),
        *(f"model.tokenizer={tmp_path}/tokenizer/checkpoint", "tokenizer.loop.num_steps=4", "model.loop.num_steps=3"),
        *("tokenizer.loss.adversarial_weight=0.1", "tokenizer.loss.adversarial_start=2"),
        "tokenizer.network.quantizer={kind: cosine_vq, codebook_size: 64}",
    ]
    environment = os.environ | {"PLANTAIN_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*torchrun, *command], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("wrote") == 2  # only the main process speaks
    for part, steps in (("tokenizer", 4), ("model", 3)):
        lines = [json.loads(line) for line in (tmp_path / part / "metrics.jsonl").read_text().splitlines()]
        assert [(line["step"], line["part"]) for line in lines] == [(steps, "train"), (steps, "validation")]
    again = subprocess.run([sys.executable, *command], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr[-2000:]


def test_two_processes_draw_what_one_draws(tmp_path: Path):
    import numpy as np

    launches = {
        "one": [sys.executable],
        "two": [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"],
    }
    for name, launch in launches.items():
        command = [*launch, "-m", "metrics", "checkpoints/shapes32", "--num-samples", "51"]
        command += ["--npz", str(tmp_path / f"{name}.npz"), "--out", str(tmp_path / f"{name}.json")]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-2000:]
        assert done.stdout.count("wrote") == 1
    one, two = (np.load(tmp_path / f"{name}.npz")["arr_0"] for name in launches)
    assert one.shape == (51, 32, 32, 3) and (one == two).all((1, 2, 3)).mean() > 0.95  # logits may tie within rounding
