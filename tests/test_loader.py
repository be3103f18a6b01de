"""Which examples a step sees: a function of seed and step, whatever was killed, divided or loaded in advance."""

import pytest
import torch

from data.loader import StepSampler, step_loader


class Numbers(torch.utils.data.Dataset):
    def __len__(self) -> int:
        return 7

    def __getitem__(self, key: tuple[int, int]) -> float:
        return 10.0 * key[0] + key[1]


def test_each_epoch_is_a_permutation_of_its_own():
    keys = [key for batch in StepSampler(10, 4, seed=0, start=0, stop=10) for key in batch]
    assert [epoch for epoch, _ in keys] == [index // 10 for index in range(40)]
    orders = [tuple(index for epoch, index in keys if epoch == wanted) for wanted in range(4)]
    assert all(sorted(order) == list(range(10)) for order in orders) and len(set(orders)) == 4
    assert keys != [key for batch in StepSampler(10, 4, seed=1, start=0, stop=10) for key in batch]


def test_starting_at_a_step_is_skipping_the_steps_before_it():
    whole = list(StepSampler(7, 4, seed=3, start=0, stop=12))
    for start in range(12):
        assert list(StepSampler(7, 4, seed=3, start=start, stop=12)) == whole[start:]
    assert len(StepSampler(7, 4, seed=3, start=5, stop=12)) == 7


def test_the_shares_of_processes_are_disjoint_and_cover_the_batch():
    whole = list(StepSampler(9, 6, seed=3, start=2, stop=8))
    shares = [list(StepSampler(9, 6, seed=3, start=2, stop=8, rank=rank, world=3)) for rank in range(3)]
    for step, batch in enumerate(whole):
        parts = [share[step] for share in shares]
        assert [len(part) for part in parts] == [2, 2, 2]
        assert sorted(key for part in parts for key in part) == sorted(batch)


def test_no_examples_or_an_uneven_batch_are_refused():
    with pytest.raises(ValueError, match="no examples to train on"):
        StepSampler(0, 4, seed=0, start=0, stop=1)
    with pytest.raises(ValueError, match="batch_size 4 does not divide among 3 processes"):
        StepSampler(8, 4, seed=0, start=0, stop=1, world=3)


def test_workers_change_neither_batches_nor_their_order():
    def batches(num_workers: int) -> list[list[float]]:
        sampler = StepSampler(7, 3, seed=0, start=1, stop=6)
        return [[float(x) for x in batch] for batch in step_loader(Numbers(), sampler, list, num_workers, pin=False)]

    expected = [[10.0 * epoch + index for epoch, index in keys] for keys in StepSampler(7, 3, seed=0, start=1, stop=6)]
    assert batches(0) == batches(2) == expected
