"""The draft: guesses follow the pictures it learned from, and leave what was drawn after the right neighbours."""

import numpy as np
import pytest
import torch

from model.draft import SIZE, guess, learn


def stripes(count: int, rows: int = 4, columns: int = 6) -> np.ndarray:
    """Pictures whose first code chooses all others: each is one more than its left neighbour, modulo ten."""
    first = np.arange(count)[:, None, None] % 10
    return (first + np.arange(columns) + np.zeros((rows, 1), dtype=int)) % 10


def layout(grids: torch.Tensor, prefix: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Sequences that hold the grids after a prefix and before padding, with their first places and columns."""
    count, _, columns = grids.shape
    sequences = torch.full((count, prefix + grids[0].numel() + 20), 7)
    sequences[:, prefix : prefix + grids[0].numel()] = grids.flatten(1)
    return sequences, torch.full((count,), prefix), torch.full((count,), columns)


def test_the_table_holds_the_most_frequent_code_of_each_context():
    grids = np.array([[[3, 5]], [[3, 5]], [[3, 6]], [[4, 6]]])
    table = learn(grids)
    assert table.shape == (SIZE,) and (table >= 0).sum() == 3  # at the beginning, after a 3, after a 4
    drawn, first, columns = layout(torch.tensor([[[0, 0]]]), prefix=2)
    before = torch.full_like(drawn, 9)
    assert guess(table, drawn, before, torch.tensor([[2, 3]]), 0, first, columns)[0, 2:4].tolist() == [3, 5]


def test_pictures_of_several_grids_make_one_table():
    wide, tall = np.array([[[3, 5]], [[3, 5]]]), np.array([[[3, 6], [4, 4]]])
    table = learn(wide, tall)
    alone = learn(tall)
    drawn, first, columns = layout(torch.tensor([[[0, 0], [0, 0]]]), prefix=2)
    before, places = torch.full_like(drawn, 9), torch.tensor([[2, 3, 4, 5]])
    assert guess(alone, drawn, before, places, 0, first, columns)[0, 2:6].tolist() == [3, 6, 4, 4]
    assert guess(table, drawn, before, places, 0, first, columns)[0, 2:4].tolist() == [3, 5]  # seen twice


@pytest.mark.parametrize("prefix", [1, 5])
def test_what_follows_from_a_changed_code_is_guessed_along_the_row_and_below(prefix: int):
    truth = torch.from_numpy(stripes(10))
    table = learn(stripes(10))
    sequences, first, columns = layout(truth, prefix)
    places = first[:, None] + torch.arange(24)
    before = sequences.scatter(1, places, (sequences.gather(1, places) + 5) % 10)  # what was read was all wrong
    drawn = before.clone()
    drawn[:, prefix] = truth[:, 0, 0]  # of which only the first code came out right
    guessed = guess(table, drawn, before, places, 24, first, columns)
    assert torch.equal(guessed[:, prefix : prefix + 9], sequences[:, prefix : prefix + 9])  # ROUNDS steps from it
    assert torch.equal(guessed[:, :prefix], drawn[:, :prefix]) and (guessed[:, prefix + 24 :] == 7).all()


def test_a_code_whose_neighbours_were_right_stays_even_if_the_table_disagrees():
    table = torch.zeros(SIZE, dtype=torch.int32)
    grids = torch.randint(1, 10, (5, 4, 6), generator=torch.Generator().manual_seed(0))
    sequences, first, columns = layout(grids, prefix=3)
    places = first[:, None] + torch.arange(12)
    guessed = guess(table, sequences, sequences, places, 12, first, columns)
    assert torch.equal(guessed, sequences)
    half = guess(table, sequences, sequences, places, 6, first, columns)
    assert torch.equal(half[:, :9], sequences[:, :9]) and (half[:, 9:15] == 0).all()


def test_where_nothing_was_learned_what_was_drawn_stays():
    sequences, first, columns = layout(torch.from_numpy(stripes(3)), prefix=1)
    places = first[:, None] + torch.arange(24)
    table = torch.full((SIZE,), -1, dtype=torch.int32)
    assert torch.equal(guess(table, sequences, sequences + 1, places, 24, first, columns), sequences)
