"""Text into numbers: `Tokenizer` and `pad_sequences`, by Keras's names, defaults and rules."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from fastlstm import checks

FILTERS = '!"#$%&()*+,-./:;<=>?@[\\]^_`{|}~\t\n'


def text_to_word_sequence(input_text: str, filters: str = FILTERS, lower: bool = True, split: str = " ") -> list[str]:
    """The words of a text: lowered, cut at `split` and at every character of `filters`."""
    if lower:
        input_text = input_text.lower()
    return [word for word in input_text.translate(dict.fromkeys(map(ord, filters), split)).split(split) if word]


class Tokenizer:
    """Numbers words by how often they occur, the most frequent being 1; 0 is kept for padding.

    Parameters
    ----------
    num_words
        Only ids under this are given out: the num_words - 1 most frequent words. None: all.
    filters
        Characters that part words.
    lower
        Whether upper and lower case are one.
    split
        What parts words.
    char_level
        Whether every character is a word.
    oov_token
        A word, numbered 1, that stands for those that are not known; without it they are left out.

    Attributes
    ----------
    word_index, index_word : dict
        The number of each word, and back, whether under num_words or not.
    word_counts : dict
        How often each word occurred.
    document_count : int
        Texts seen.
    """

    def __init__(
        self,
        num_words: int | None = None,
        filters: str = FILTERS,
        lower: bool = True,
        split: str = " ",
        char_level: bool = False,
        oov_token: str | None = None,
    ) -> None:
        self.num_words = None if num_words is None else checks.size("num_words", num_words)
        self.filters, self.split, self.oov_token = str(filters), str(split), oov_token
        self.lower, self.char_level = checks.flag("lower", lower), checks.flag("char_level", char_level)
        self.word_counts: Counter[str] = Counter()
        self.word_index: dict[str, int] = {}
        self.index_word: dict[int, str] = {}
        self.document_count = 0

    def _words(self, text: Any) -> list[str]:
        if self.char_level or not isinstance(text, str):
            if not isinstance(text, str | list | tuple):
                raise TypeError(f"texts must hold strings or lists of words, but had {text!r}")
            return [word.lower() for word in text] if self.lower else list(text)
        return text_to_word_sequence(text, self.filters, self.lower, self.split)

    def fit_on_texts(self, texts: Iterable[Any]) -> None:
        """Count the words of texts, and number all words counted so far anew."""
        if isinstance(texts, str):
            raise TypeError(f"texts must be a list of strings, but was the string {texts[:40]!r}")
        for text in texts:
            self.document_count += 1
            self.word_counts.update(self._words(text))
        ordered = [
            word for word, _ in self.word_counts.most_common()
        ]  # a stable sort: words as frequent stand in the order in which they came
        if self.oov_token is not None:
            ordered = [self.oov_token, *(word for word in ordered if word != self.oov_token)]
        self.word_index = {word: k for k, word in enumerate(ordered, 1)}
        self.index_word = {k: word for word, k in self.word_index.items()}

    def texts_to_sequences(self, texts: Iterable[Any]) -> list[list[int]]:
        """The numbers of the words of each text."""
        limit = self.num_words or len(self.word_index) + 1
        known = {word: k for word, k in self.word_index.items() if k < limit}
        if self.oov_token is None:
            return [[known[word] for word in self._words(text) if word in known] for text in texts]
        other = self.word_index.get(self.oov_token, 1)
        return [[known.get(word, other) for word in self._words(text)] for text in texts]

    def sequences_to_texts(self, sequences: Iterable[Iterable[int]]) -> list[str]:
        """The words of each sequence of numbers, with a blank between them; a number that is not known is left out,
        or `oov_token`.
        """
        limit = self.num_words or len(self.word_index) + 1
        texts = []
        for sequence in sequences:
            words = [self.index_word.get(int(k)) if int(k) < limit else None for k in sequence]
            texts.append(" ".join(w for w in (word or self.oov_token for word in words) if w is not None))
        return texts


def pad_sequences(
    sequences: Sequence[Sequence[Any]],
    maxlen: int | None = None,
    dtype: Any = "int32",
    padding: str = "pre",
    truncating: str = "pre",
    value: float = 0.0,
) -> np.ndarray:
    """Sequences of unequal lengths as one array.

    Parameters
    ----------
    sequences
        N sequences of numbers, or of arrays (t, ...).
    maxlen
        Length of all; the longest's if None.
    dtype
        Of the result.
    padding
        Where a shorter one is filled up: "pre" or "post".
    truncating
        Where a longer one is cut: "pre" or "post".
    value
        What it is filled with.

    Returns
    -------
    numpy.ndarray
        (N, maxlen, ...).
    """
    for name, given in (("padding", padding), ("truncating", truncating)):
        if given not in ("pre", "post"):
            raise ValueError(f"{name} must be 'pre' or 'post', but was {given!r}")
    if not hasattr(sequences, "__len__"):
        raise ValueError(f"sequences must be a list of sequences, but was {type(sequences).__name__}")
    rows = []
    for k, sequence in enumerate(sequences):
        if not hasattr(sequence, "__len__"):
            raise ValueError(f"sequences must hold sequences, but number {k} is {sequence!r}")
        rows.append(np.asarray(sequence))
    longest = max(map(len, rows), default=0)
    length = longest if maxlen is None else checks.size("maxlen", maxlen)
    trailing = next((row.shape[1:] for row in rows if len(row)), ())
    result = np.full((len(rows), length, *trailing), value, np.dtype(dtype))
    for k, row in enumerate(rows):
        if not len(row):
            continue
        if row.shape[1:] != trailing:
            raise ValueError(
                f"sequences must agree beyond their first axis, {trailing}, but number {k} has the shape {row.shape}"
            )
        kept = row[-length:] if truncating == "pre" else row[:length]
        if padding == "post":
            result[k, : len(kept)] = kept
        else:
            result[k, length - len(kept) :] = kept
    return result


def to_categorical(x: Any, num_classes: int | None = None) -> np.ndarray:
    """One-hot rows of class numbers: x of any shape, the result with `num_classes` appended to it; a last axis of one
    is dropped.
    """
    numbers = np.asarray(x, np.int64)
    if numbers.ndim > 1 and numbers.shape[-1] == 1:
        numbers = numbers[..., 0]
    if numbers.size == 0:
        raise ValueError("x must have at least one class number, but has none")
    classes = int(numbers.max()) + 1 if num_classes is None else checks.size("num_classes", num_classes)
    if numbers.min() < 0 or numbers.max() >= classes:
        raise ValueError(f"x must lie in 0..{classes - 1}, but goes from {numbers.min()} to {numbers.max()}")
    return np.eye(classes, dtype=np.float32)[numbers]
