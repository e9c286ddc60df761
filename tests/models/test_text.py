"""Tokenizer and pad_sequences by Keras's rules; the expected values are those of Keras's documentation and of its own
tests' kind.
"""

import numpy as np
import pytest

from fastlstm.models import Tokenizer, pad_sequences, text_to_word_sequence, to_categorical

TEXTS = ["The cat sat on the mat.", "The dog sat on the log!", "Dogs and cats, living together"]


def test_words_are_numbered_by_frequency_then_by_first_appearance():
    tokenizer = Tokenizer()
    tokenizer.fit_on_texts(TEXTS)
    assert list(tokenizer.word_index)[:6] == ["the", "sat", "on", "cat", "mat", "dog"]
    assert tokenizer.word_index["the"] == 1 and tokenizer.index_word[2] == "sat"
    assert tokenizer.word_counts["the"] == 4 and tokenizer.document_count == 3
    assert tokenizer.texts_to_sequences(["the cat flew on", ""]) == [[1, 4, 3], []]
    assert tokenizer.sequences_to_texts([[1, 4, 99]]) == ["the cat"]


def test_num_words_and_oov():
    tokenizer = Tokenizer(num_words=4, oov_token="<OOV>")
    tokenizer.fit_on_texts(TEXTS)
    assert tokenizer.word_index["<OOV>"] == 1 and tokenizer.word_index["the"] == 2
    assert tokenizer.texts_to_sequences(["the cat sat on it"]) == [[2, 1, 3, 1, 1]]
    plain = Tokenizer(num_words=3)
    plain.fit_on_texts(TEXTS)
    assert plain.texts_to_sequences(["the cat sat on it"]) == [[1, 2]]


def test_characters_case_filters_and_lists():
    tokenizer = Tokenizer(char_level=True, lower=False)
    tokenizer.fit_on_texts(["aAb", "ba"])
    assert tokenizer.word_index == {"a": 1, "b": 2, "A": 3}
    words = Tokenizer(filters="")
    words.fit_on_texts([["New", "York"], "new day!"])
    assert words.word_index == {"new": 1, "york": 2, "day!": 3}
    assert text_to_word_sequence("Hello, a-b  c\td") == ["hello", "a", "b", "c", "d"]
    with pytest.raises(TypeError, match="texts must be a list of strings"):
        tokenizer.fit_on_texts("abc")
    with pytest.raises(TypeError, match="texts must hold strings"):
        tokenizer.fit_on_texts([3])


@pytest.mark.parametrize(
    "arguments, expected",
    [
        ({}, [[0, 0, 1], [0, 2, 3], [4, 5, 6]]),
        ({"maxlen": 2}, [[0, 1], [2, 3], [5, 6]]),
        ({"maxlen": 2, "truncating": "post"}, [[0, 1], [2, 3], [4, 5]]),
        ({"padding": "post", "value": 9}, [[1, 9, 9], [2, 3, 9], [4, 5, 6]]),
        ({"maxlen": 4, "padding": "post"}, [[1, 0, 0, 0], [2, 3, 0, 0], [4, 5, 6, 0]]),
    ],
)
def test_padding(arguments, expected):
    result = pad_sequences([[1], [2, 3], [4, 5, 6]], **arguments)
    assert result.tolist() == expected and result.dtype == np.int32


def test_padding_of_vectors_empty_rows_and_errors():
    rows = [np.ones((2, 3)), np.zeros((0, 3)), np.full((3, 3), 2.0)]
    result = pad_sequences(rows, dtype="float32", padding="post", value=-1.0)
    assert (
        result.shape == (3, 3, 3) and result[1].tolist() == [[-1.0] * 3] * 3 and result[0, :, 0].tolist() == [1, 1, -1]
    )
    assert pad_sequences([[], [1]]).tolist() == [[0], [1]]
    with pytest.raises(ValueError, match="padding must be 'pre' or 'post'"):
        pad_sequences([[1]], padding="left")
    with pytest.raises(ValueError, match="number 1 is 3"):
        pad_sequences([[1], 3])
    with pytest.raises(ValueError, match=r"sequences must agree beyond their first axis"):
        pad_sequences([np.ones((2, 3)), np.ones((2, 4))])


def test_to_categorical():
    assert to_categorical([0, 2, 1]).tolist() == [[1, 0, 0], [0, 0, 1], [0, 1, 0]]
    assert to_categorical([[1], [0]], 3).shape == (2, 3)
    with pytest.raises(ValueError, match=r"x must lie in 0\.\.1"):
        to_categorical([2], 2)
