"""The encoder family: n-grams beside the embedding of a frozen sentence encoder, under the same linear heads.

The encoder runs as ONNX in onnxruntime, one paragraph at a time: its weights are eight-bit integers, and the scale of
their products is taken from all that is computed at once, so a paragraph would be embedded differently in company.

An embedding that is the mean of the token states is a sum over tokens, so what each token adds to a logit can be read
off as it can of an n-gram. With the pooling ``cls`` there is no such sum, and all of it goes to the bias.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Literal, NamedTuple

import msgspec
import numpy as np
import onnxruntime
from numpy.typing import NDArray
from tokenizers import Tokenizer

from models.features import Encoded, NgramFeatures, Shares, add_by_chunk

_REMEMBERED = 16
_INPUT = "ids"


class EncoderSpec(msgspec.Struct, frozen=True):
    """What an encoder is and where it came from; ``max_length`` in tokens, digests SHA-256 by file name."""

    source: str
    revision: str | None
    architecture: str
    pooling: Literal["mean", "cls"]
    max_length: int
    dimension: int
    digests: dict[str, str]


class _Parts(NamedTuple):
    """An embedding as a sum: ``rest`` of shape (d,) and a row of ``tokens``, (n, d), for each span."""

    spans: list[tuple[int, int]]
    tokens: NDArray[np.float64]
    rest: NDArray[np.float64]


class Encoder:
    """A frozen sentence encoder.

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
        self.graph, self.tokenizer, self.spec = graph, tokenizer, spec
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        # Its warnings are about the machine it runs on.
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        self._tokenizer = Tokenizer.from_buffer(tokenizer)
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(spec.max_length)
        self.parts: Callable[[str], _Parts] = lru_cache(maxsize=_REMEMBERED)(self._parts)

    def embed(self, text: str) -> NDArray[np.float64]:
        """Return the embedding of a text, shape (d,), of norm 1; what lies beyond ``max_length`` tokens is not seen."""
        parts = self.parts(text)
        return np.asarray(parts.tokens.sum(axis=0) + parts.rest)

    def _parts(self, text: str) -> _Parts:
        encoding = self._tokenizer.encode(text)
        (states,) = self._session.run(None, {_INPUT: np.array([encoding.ids], dtype=np.int64)})
        states = states[0].astype(np.float64)
        if self.spec.pooling == "cls":
            return _Parts([], np.empty((0, states.shape[1])), states[0] / np.linalg.norm(states[0]))
        states /= np.linalg.norm(states.sum(axis=0))
        special = np.array(encoding.special_tokens_mask, dtype=bool)
        spans = [span for span, is_special in zip(encoding.offsets, special, strict=True) if not is_special]
        return _Parts(spans, states[~special], states[special].sum(axis=0))


class EncoderFeatures:
    """The columns of n-grams, then one for each dimension of the embedding."""

    def __init__(self, ngrams: NgramFeatures, encoder: Encoder, embed: Callable[[str], NDArray[np.float64]]) -> None:
        self.ngrams = ngrams
        self.encoder = encoder
        self._embed = embed
        self._dense = np.arange(ngrams.size, self.size)

    @property
    def size(self) -> int:
        return self.ngrams.size + self.encoder.spec.dimension

    def encode(self, text: str) -> Encoded:
        """Return the row of `text`; its three blocks have norm 1."""
        row = self.ngrams.encode(text)
        return Encoded(
            text,
            np.concatenate([row.columns, self._dense]),
            np.concatenate([row.values, self._embed(text)]),
        )

    def share_out(self, row: Encoded, weights: NDArray[np.floating]) -> Shares:
        """Share out what the row's columns add to a logit, by chunks of its text."""
        border = int(np.searchsorted(row.columns, self.ngrams.size))
        sparse = Encoded(row.text, row.columns[:border], row.values[:border])
        spans, found, _ = self.ngrams.share_out(sparse, weights[:border])
        parts = self.encoder.parts(row.text)
        starts = [start for start, _ in spans]
        each = parts.tokens @ weights[border:]
        rest = float(parts.rest @ weights[border:])
        return Shares(spans, found, rest + add_by_chunk(starts, parts.spans, each, found))
