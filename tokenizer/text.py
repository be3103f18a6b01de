"""Text to ids and back: byte-level byte-pair encoding, trained on the captions at hand."""

from collections.abc import Iterable, Sequence

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from tokenizer.vocabulary import SPECIALS, TEXT_START


class TextTokenizer:
    """Byte-pair encoding of UTF-8 bytes: every text has ids, and its ids give exactly that text again.

    The specials of the vocabulary hold the first ids, so what stands in `tokenizer.json` are ids of the shared table.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        found = [tokenizer.id_to_token(index) for index in range(TEXT_START)]
        if found != list(SPECIALS):
            raise ValueError(
                "this tokenizer.json does not begin with Plantain's special tokens: it belongs to another model"
            )
        self._tokenizer = tokenizer
        # Else "<image>" typed by a user would become the special token. This setting is not stored in the file.
        self._tokenizer.encode_special_tokens = True

    @classmethod
    def train(cls, texts: Iterable[str], num_text: int) -> "TextTokenizer":
        """Learns merges from texts.

        Args:
            texts: What will typically be said.
            num_text: Number of text ids, 256 bytes included; fewer result where the texts hold fewer distinct pairs.
        """
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=TEXT_START + max(256, num_text),
            special_tokens=list(SPECIALS),
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        )
        tokenizer.train_from_iterator(texts, trainer)
        return cls(tokenizer)

    @classmethod
    def from_json(cls, text: str) -> "TextTokenizer":
        """Reads the content of a `tokenizer.json`.

        Raises:
            ValueError: It is damaged, or another model's.
        """
        try:
            tokenizer = Tokenizer.from_str(text)
        except Exception as error:
            raise ValueError(f"tokenizer.json can't be read ({error}): copy or train the checkpoint again") from error
        return cls(tokenizer)

    def to_json(self) -> str:
        """The content of a `tokenizer.json`, which other libraries read too."""
        return self._tokenizer.to_str(pretty=True) + "\n"

    @property
    def num_text(self) -> int:
        """Number of ids beyond the specials."""
        return self._tokenizer.get_vocab_size() - TEXT_START

    def vocabulary(self) -> dict[str, int]:
        """The id of every piece of text, spelt as in `tokenizer.json`."""
        return {piece: id for piece, id in self._tokenizer.get_vocab().items() if id >= TEXT_START}

    def encode(self, text: str) -> list[int]:
        """Ids of a text; none of them is a special token's, whatever the text."""
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids; specials are left out."""
        return self._tokenizer.decode(list(ids), skip_special_tokens=True)
