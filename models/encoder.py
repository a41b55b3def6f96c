"""The encoder and tuned families: n-grams beside the embedding of a sentence encoder, under the same linear heads.

The encoder runs as ONNX in onnxruntime, one paragraph at a time: its weights are eight-bit integers, and the scale of
their products is taken from all that is computed at once, so a paragraph would be embedded differently in company.

An embedding that is the mean of the token states is a sum over tokens, so what each token adds to a logit can be read
off as it can of an n-gram. With the pooling ``cls`` there is no such sum, and all of it goes to the bias.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import Literal, NamedTuple

import msgspec
import numpy as np
import onnxruntime
from numpy.typing import NDArray
from tokenizers import Tokenizer

from models.features import NgramFeatures, NgramRow, Shares, add_by_chunk
from models.plain import Labeller, Matrix, Weights

_REMEMBERED = 16
_INPUT = "ids"


class HeadBlend(msgspec.Struct, frozen=True):
    """What was made of the heads over n-grams when a fine-tuned encoder was put beside them: a topic's logit was
    multiplied by ``head`` and ``offset`` added to it, those of its stances likewise."""

    head: float
    offset: float
    stance_head: float
    stance_offset: list[float]


class EncoderSpec(msgspec.Struct, frozen=True, omit_defaults=True):
    """What an encoder is and where it came from; ``max_length`` in tokens, digests SHA-256 by file name.

    ``tuned`` is of an encoder that was fine-tuned on labels, and says by topic how it was blended with the heads.
    """

    source: str
    revision: str | None
    architecture: str
    pooling: Literal["mean", "cls"]
    max_length: int
    dimension: int
    digests: dict[str, str]
    tuned: dict[str, HeadBlend] | None = None


class _Parts(NamedTuple):
    """An embedding as a sum: ``rest`` of shape (d,) and a row of ``tokens``, (n, d), for each span."""

    spans: list[tuple[int, int]]
    tokens: NDArray[np.float64]
    rest: NDArray[np.float64]


class Encoder:
    """A sentence encoder, as its checkpoint has it or fine-tuned.

    Parameters
    ----------
    graph : bytes
        ONNX: ids of shape (1, n_tokens) in, states of shape (1, n_tokens, d) out.
    tokenizer : bytes
        A ``tokenizer.json``.
    spec : EncoderSpec
    threads : int
        Threads for one paragraph.
    """

    def __init__(self, graph: bytes, tokenizer: bytes, spec: EncoderSpec, *, threads: int = 1) -> None:
        self.graph, self.tokenizer, self.spec, self.threads = graph, tokenizer, spec, threads
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        # Its warnings are about the machine it runs on.
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        opened = Tokenizer.from_buffer(tokenizer)
        opened.no_padding()
        opened.enable_truncation(spec.max_length)
        # No method: cached by the object that it belongs to, it would keep a bundle that another took over from.
        self.parts: Callable[[str], _Parts] = lru_cache(maxsize=_REMEMBERED)(
            partial(_parts, session, opened, spec.pooling)
        )

    def embed(self, text: str) -> NDArray[np.float64]:
        """Return the embedding of a text, shape (d,), of norm 1; what lies beyond ``max_length`` tokens is not seen."""
        parts = self.parts(text)
        return np.asarray(parts.tokens.sum(axis=0) + parts.rest)


def _parts(session: onnxruntime.InferenceSession, tokenizer: Tokenizer, pooling: str, text: str) -> _Parts:
    encoding = tokenizer.encode(text)
    (states,) = session.run(None, {_INPUT: np.array([encoding.ids], dtype=np.int64)})
    states = states[0].astype(np.float64)
    if pooling == "cls":
        return _Parts([], np.empty((0, states.shape[1])), states[0] / np.linalg.norm(states[0]))
    states /= np.linalg.norm(states.sum(axis=0))
    special = np.array(encoding.special_tokens_mask, dtype=bool)
    spans = [span for span, is_special in zip(encoding.offsets, special, strict=True) if not is_special]
    return _Parts(spans, states[~special], states[special].sum(axis=0))


class EncoderRow:
    """One text that was read by its n-grams and embedded; its three blocks have norm 1."""

    def __init__(self, ngrams: NgramRow, embedding: NDArray[np.float64], size: int, encoder: Encoder) -> None:
        self._ngrams, self._embedding = ngrams, embedding
        self._size, self._encoder = size, encoder

    @property
    def text(self) -> str:
        return self._ngrams.text

    def dot(self, matrix: Matrix) -> NDArray[np.float64]:
        return np.asarray(self._ngrams.dot(matrix) + self._embedding @ self._dense(matrix))

    def shares(self, matrix: Matrix, direction: tuple[float, ...]) -> Shares:
        spans, found, _ = self._ngrams.shares(matrix, direction)
        weights = self._dense(matrix) @ np.array(direction)
        parts = self._encoder.parts(self.text)
        rest = add_by_chunk([start for start, _ in spans], parts.spans, parts.tokens @ weights, found)
        return Shares(spans, found, rest + float(parts.rest @ weights))

    def _dense(self, matrix: Matrix) -> NDArray[np.float64]:
        return matrix[self._size :].astype(np.float64)


class EncoderFeatures:
    """The columns of n-grams, then one for each dimension of the embedding."""

    def __init__(self, ngrams: NgramFeatures, encoder: Encoder, embed: Callable[[str], NDArray[np.float64]]) -> None:
        self.ngrams = ngrams
        self.encoder = encoder
        self._embed = embed

    @property
    def size(self) -> int:
        return self.ngrams.size + self.encoder.spec.dimension

    def read(self, text: str) -> EncoderRow:
        """Return the row of `text`."""
        return EncoderRow(self.ngrams.read(text), self._embed(text), self.ngrams.size, self.encoder)

    def dot(self, texts: Sequence[str], matrix: Matrix) -> NDArray[np.float64]:
        """Return the products of the rows of `texts` and a matrix, shape (n_texts, width)."""
        own = matrix[self.ngrams.size :].astype(np.float64)
        # One by one: a product of many rows is rounded otherwise than that of one.
        found = np.array([self._embed(text) @ own for text in texts]).reshape(len(texts), matrix.shape[1])
        return np.asarray(self.ngrams.dot(texts, matrix) + found)

    def labeller(self, weights: Weights, part: float) -> Labeller:
        """Return what labels by these weights."""
        return Labeller(self, *weights, part)
