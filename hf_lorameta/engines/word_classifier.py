"""A classifier on the words of an input, which an adapter for labels has to be better than.

It is ridge regression to the labels (0 or 1 each) on TF-IDF of words, solved in closed form. Words
that are in all rows, such as an instruction, have an IDF of 0 and change nothing, so prompts are
not parsed.

It was chosen on 47 label tasks of ``../shared/everyday`` that are not reported on, in 16 languages,
by right answers to at most 60 test rows: means over 16, 64 and 300 training rows, where labels are
about equally frequent, and where rows were left out until the most frequent one had 0.61 (39
tasks). Of those within 0.01 of the best it is the simplest:

=================================================  =====  =======  =====
labels                                             equal  unequal   mean
=================================================  =====  =======  =====
this                                               0.470    0.645  0.558
ridge regression on words and pairs, of any count  0.474    0.656  0.565
logistic regression on words, C = 10               0.467    0.648  0.558
naive Bayes on words and pairs, α = 1              0.457    0.646  0.552
naive Bayes on words and pairs, α = 0.3            0.470    0.625  0.547
most frequent label                                0.270    0.613  0.442
=================================================  =====  =======  =====

Pieces of words besides, of 2 to 4 characters, bring 0.01 at 64 equal rows and 0.03 at 300, but are
several times as many.

In scripts without spaces, pairs of characters are its words.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from functools import cache

import numpy as np

from hf_lorameta.types import FloatArray, Row

_MOST_WORDS = 2048
"""Different words that are used: those in most rows."""
_RIDGE = 0.3
_WITHOUT_SPACES = re.compile(
    "[\u0e00-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"
)
"""Thai, Lao, Tibetan, Burmese, Khmer, Japanese and Chinese; Korean has spaces."""


def predicted_labels(rows: Sequence[Row], inputs: Sequence[str]) -> list[str]:
    """Return the output that a classifier trained on rows predicts for each input.

    Where words say nothing, this is the most frequent output, or the first of them. Time and memory
    grow with the square of the number of rows: 2,000 rows of 1,000 characters need half a second
    and 100 MB.

    Args:
        rows: to train on, at least one; an output is a label as it stands.
        inputs: to predict labels for.

    Example:
        >>> rows = [("Mood? What a joy", "good"), ("Mood? How sad", "bad"), ("Mood? joy!", "good")]
        >>> predicted_labels(rows, ["Mood? So sad.", "Mood? So much joy!", "Mood?"])
        ['bad', 'good', 'good']
    """
    outputs = [output for _, output in rows]
    labels = [label for label, _ in Counter(outputs).most_common()]
    index = {label: i for i, label in enumerate(labels)}
    targets = np.eye(len(labels), dtype=np.float32)[[index[output] for output in outputs]]
    mean = targets.mean(axis=0)
    known, asked = _features([text for text, _ in rows], inputs)
    kernel = known @ known.T + _RIDGE * np.eye(len(rows), dtype=np.float32)
    scores = asked @ (known.T @ np.linalg.solve(kernel, targets - mean)) + mean
    return [labels[i] for i in scores.argmax(axis=1)]


def _features(known: Sequence[str], asked: Sequence[str]) -> tuple[FloatArray, FloatArray]:
    """Return TF-IDF of the words of texts, of length 1 or 0, with the IDF of the known ones."""
    words_of = [_words(text) for text in known]
    found = Counter(word for words in words_of for word in dict.fromkeys(words))
    used = [word for word, _ in found.most_common(_MOST_WORDS)]
    column = {word: i for i, word in enumerate(used)}
    idf = np.log(len(known) / np.array([found[word] for word in used], dtype=np.float32))

    def tf_idf(texts: Sequence[Sequence[str]]) -> FloatArray:
        values: FloatArray = np.zeros((len(texts), len(used)), dtype=np.float32)
        for row, words in zip(values, texts, strict=True):
            columns = np.array([column[word] for word in words if word in column], dtype=np.intp)
            row += np.bincount(columns, minlength=len(used))
        np.multiply(np.log1p(values, out=values), idf, out=values)
        lengths = np.linalg.norm(values, axis=1, keepdims=True)
        lengths[lengths == 0] = 1
        values /= lengths
        return values

    return tf_idf(words_of), tf_idf([_words(text) for text in asked])


def _words(text: str) -> list[str]:
    """Return the words of a text in lower case; in scripts without spaces, pairs of characters.

    Example:
        >>> _words("It's 天気予報。")
        ['it', 's', '天気', '気予', '予報']
    """
    words: list[str] = []
    for word in _word_pattern().findall(text.lower()):
        if _WITHOUT_SPACES.search(word):
            words += [word[i : i + 2] for i in range(max(len(word) - 1, 1))]
        else:
            words.append(word)
    return words


@cache
def _word_pattern() -> re.Pattern[str]:
    """Return a pattern for letters, digits, and the marks above or below letters.

    Python's ``\\w`` has no marks, which would split words of Hindi and Thai.
    """
    marks = (c for c in map(chr, range(0x1800)) if unicodedata.category(c).startswith("M"))
    return re.compile(f"[\\w{''.join(marks)}]+")
