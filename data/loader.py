"""Which examples each training step sees: a function of seed and step, so that resuming needs no saved state."""

from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

Key = tuple[int, int]  # (epoch, index)


class StepSampler(Sampler[list[Key]]):
    """The keys of every step's batch from step `start` on, for one of several processes.

    Each epoch is a permutation of its own; an epoch's last, incomplete batch is filled up by the next epoch.
    """

    def __init__(
        self, num_examples: int, batch_size: int, seed: int, start: int, stop: int, rank: int = 0, world: int = 1
    ) -> None:
        if num_examples < 1:
            raise ValueError("there are no examples to train on: check the data section of the config")
        if batch_size % world:
            raise ValueError(f"batch_size {batch_size} does not divide among {world} processes: choose a multiple")
        self.num_examples, self.batch_size, self.seed = num_examples, batch_size, seed
        self.start, self.stop, self.rank, self.world = start, stop, rank, world

    def __len__(self) -> int:
        return self.stop - self.start

    def __iter__(self) -> Iterator[list[Key]]:
        epoch, order = -1, None
        for step in range(self.start, self.stop):
            keys: list[Key] = []
            for position in range(step * self.batch_size, (step + 1) * self.batch_size):
                if position // self.num_examples != epoch or order is None:
                    epoch = position // self.num_examples
                    generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
                    order = torch.randperm(self.num_examples, generator=generator)
                keys.append((epoch, int(order[position % self.num_examples])))
            yield keys[self.rank :: self.world]


def step_loader(
    dataset: Dataset[Any], sampler: StepSampler, collate: Any, num_workers: int, pin: bool
) -> DataLoader[Any]:
    """A loader of one batch for each of the sampler's steps; the number of workers never changes what it yields."""
    return DataLoader(
        dataset,
        batch_sampler=sampler,
        collate_fn=collate,
        num_workers=num_workers,
        pin_memory=pin,
        generator=torch.Generator().manual_seed(sampler.seed),  # else iter() would draw from the global generator
    )
