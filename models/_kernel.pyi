from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from models.plain import Label
from models.results import Evidence

MOST_TOPICS: int

class Ngrams:
    """As in `models.plain`; what is an array there is a buffer here. `dot` lets other threads run."""

    def __new__(cls, words: Sequence[str], chars: Sequence[str], idf: NDArray[np.float32]) -> Ngrams: ...
    def read(self, text: str) -> Row: ...
    def dot(self, texts: Sequence[str], matrix: NDArray[np.float32]) -> bytearray: ...

class Row:
    text: str
    def columns(self) -> bytearray: ...
    def values(self) -> bytearray: ...
    def dot(self, matrix: NDArray[np.float32]) -> bytearray: ...
    def shares(self, matrix: NDArray[np.float32], direction: tuple[float, ...]) -> bytearray: ...
    def spans(self) -> list[tuple[int, int]]: ...

class Labeller:
    """As in `models.plain`, of at most `MOST_TOPICS` topics. Of more than one text other
    threads may run meanwhile."""

    def __new__(
        cls,
        ngrams: Ngrams,
        topics: NDArray[np.float32],
        topic_bias: NDArray[np.float64],
        sides: Sequence[NDArray[np.float32]],
        stance_bias: NDArray[np.float64] | None,
        part: float,
        evidence: Callable[[int, int, str, float], Evidence],
    ) -> Labeller: ...
    def logits(self, texts: Sequence[str]) -> bytearray: ...
    def label(self, texts: Sequence[str], floors: NDArray[np.float64], encoded: bool = False) -> list[list[Label]]: ...
