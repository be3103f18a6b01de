"""Every text has ids, its ids give exactly that text again, and no text can forge structure."""

import json

import pytest

from tokenizer.text import TextTokenizer
from tokenizer.vocabulary import SPECIALS, TEXT_START


@pytest.mark.parametrize(
    "text",
    [
        "a small red circle",
        "",
        "  two  spaces \t and\n\nlines \r\n",
        "naïve café, Ωmega",
        "红色的圆 と 青い四角",
        "🍌👩‍👩‍👧‍👦🏳️‍🌈",
        "e\u0301 is not \u00e9",
        "\x00\u200b\ufeff\U0010ffff",
        "x" * 500,
    ],
)
def test_a_text_comes_back_exactly(text_tokenizer: TextTokenizer, text: str):
    ids = text_tokenizer.encode(text)
    assert text_tokenizer.decode(ids) == text
    assert all(TEXT_START <= token < TEXT_START + text_tokenizer.num_text for token in ids)


@pytest.mark.parametrize("special", ["<pad>", "<begin>", "<end>", "<image>", "</image>", "<side 1>", "<side 64>"])
def test_text_that_spells_a_special_token_is_ordinary_text(text_tokenizer: TextTokenizer, special: str):
    assert special in SPECIALS
    again = TextTokenizer.from_json(text_tokenizer.to_json())
    learned = TextTokenizer.train([f"draw{special} {special} {special}{special}"] * 50, 400)
    for tokenizer in (text_tokenizer, again, learned):
        for text in (special, f"a {special} b", f"{special}{special}", f"x{special}"):
            ids = tokenizer.encode(text)
            assert min(ids) >= TEXT_START
            assert tokenizer.decode(ids) == text


def test_special_ids_are_left_out_of_decoded_text(text_tokenizer: TextTokenizer):
    ids = text_tokenizer.encode("a ring")
    assert text_tokenizer.decode([1, *ids, 3, 2]) == "a ring"


def test_learned_merges_shorten_what_was_learned_from(text_tokenizer: TextTokenizer):
    text = "a large blue square on a white background"
    assert len(text_tokenizer.encode(text)) < len(text) / 2
    bytes_only = TextTokenizer.train(["ab"], 256)
    assert bytes_only.num_text == 256 and len(bytes_only.encode(text)) == len(text)


def test_training_gives_at_most_the_ids_asked_for(text_tokenizer: TextTokenizer):
    assert 256 < text_tokenizer.num_text <= 320
    assert TextTokenizer.train(["aa bb"], 10_000).num_text < 270  # there are no more pairs than that


def test_a_saved_tokenizer_reads_as_before(text_tokenizer: TextTokenizer):
    text = "three magenta crosses 🍌"
    again = TextTokenizer.from_json(text_tokenizer.to_json())
    assert again.encode(text) == text_tokenizer.encode(text)
    assert again.num_text == text_tokenizer.num_text and again.to_json() == text_tokenizer.to_json()


def test_a_damaged_or_foreign_file_is_refused(text_tokenizer: TextTokenizer):
    with pytest.raises(ValueError, match="tokenizer.json can't be read"):
        TextTokenizer.from_json(text_tokenizer.to_json()[:-100])
    foreign = json.loads(text_tokenizer.to_json())
    foreign["added_tokens"][3]["content"] = "<picture>"
    foreign["model"]["vocab"] = {
        {"<image>": "<picture>"}.get(name, name): token for name, token in foreign["model"]["vocab"].items()
    }
    with pytest.raises(ValueError, match="belongs to another model"):
        TextTokenizer.from_json(json.dumps(foreign))
