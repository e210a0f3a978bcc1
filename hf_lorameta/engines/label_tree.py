"""Labels as a tree of tokens, so that what several of them begin with is read once. Runs no model.

A model that chooses among labels reads the tree behind a prompt in one pass. The probability of a
label is that of its tokens up to the first one that no other label has in its place: the tokens
after it add nothing to the choice, and need not be read.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

from hf_lorameta.data.prompt import shared_length


class LabelTree(NamedTuple):
    """Labels behind a prompt. Place 0 is the prompt's last token, place i the token ``read[i-1]``.

    Attributes:
        read: the tokens that a model reads, each after those that it continues.
        parents: the place that each of these continues.
        edges: (place, token) of each probability that is needed: of the token after the place.
        paths: of each label, the edges that lead to it.
    """

    read: tuple[int, ...]
    parents: tuple[int, ...]
    edges: tuple[tuple[int, int], ...]
    paths: tuple[tuple[int, ...], ...]

    @property
    def depths(self) -> list[int]:
        """How many tokens after the prompt's last one each of the tokens stands.

        Example:
            >>> label_tree([[5, 6, 7], [5, 8]]).depths
            [1]
        """
        depths = [0]
        for parent in self.parents:
            depths.append(depths[parent] + 1)
        return depths[1:]

    def sees(self) -> Iterator[list[int]]:
        """Yield the tokens of the tree that each of them sees: itself, and those before it."""
        seen: list[list[int]] = [[]]
        for index, parent in enumerate(self.parents):
            seen.append([*seen[parent], index])
            yield seen[-1]


class IndistinctLabelsError(ValueError):
    """Labels that are equal as tokens, or one of which begins another."""


def distinct_beginnings(labels: Sequence[Sequence[int]]) -> list[Sequence[int]]:
    """Return each label up to its first token that no label with the same beginning has there.

    Args:
        labels: tokens of different labels, each with its end token, so that none begins another.

    Raises:
        IndistinctLabelsError: two are equal, or one begins another.

    Example:
        >>> distinct_beginnings([[5, 6, 1], [5, 7, 8, 1], [9, 6, 1], [5, 1]])
        [[5, 6], [5, 7], [9], [5, 1]]
    """
    order = sorted(range(len(labels)), key=lambda index: list(labels[index]))
    shared = [0] * len(labels)
    for first, second in pairwise(order):
        length = shared_length([labels[first], labels[second]])
        if length == min(len(labels[first]), len(labels[second])):
            raise IndistinctLabelsError("a label is the beginning of another")
        shared[first], shared[second] = max(shared[first], length), max(shared[second], length)
    return [label[: length + 1] for label, length in zip(labels, shared, strict=True)]


def label_tree(labels: Sequence[Sequence[int]]) -> LabelTree:
    """Return the tree of labels that `distinct_beginnings` accepts.

    Example:
        >>> label_tree([[5, 6, 1], [5, 7, 8, 1], [9, 1]])  # doctest: +NORMALIZE_WHITESPACE
        LabelTree(read=(5,), parents=(0,), edges=((0, 5), (1, 6), (1, 7), (0, 9)),
                  paths=((0, 1), (0, 2), (3,)))
    """
    read, parents, edges = list[int](), list[int](), dict[tuple[int, int], int]()
    places: dict[tuple[int, int], int] = {}
    paths = []
    for label in distinct_beginnings(labels):
        place, path = 0, list[int]()
        for depth, token in enumerate(label):
            path.append(edges.setdefault((place, token), len(edges)))
            if depth + 1 == len(label):
                break
            if (place, token) not in places:
                read.append(token)
                parents.append(place)
                places[place, token] = len(read)
            place = places[place, token]
        paths.append(tuple(path))
    return LabelTree(tuple(read), tuple(parents), tuple(edges), tuple(paths))
