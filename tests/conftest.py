"""What holds for every test: no network, and tests that need a GPU are skipped where there is none."""

import os

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"  # read when the library is imported, so before any test imports it


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    needs_cuda = [item for item in items if item.get_closest_marker("cuda")]
    if not needs_cuda:
        return
    import torch

    if not torch.cuda.is_available():
        for item in needs_cuda:
            item.add_marker(pytest.mark.skip(reason="needs an NVIDIA GPU"))
