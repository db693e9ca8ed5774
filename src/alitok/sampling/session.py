"""A batch of images under way: its buffers, the step over them, and the same step as replayed CUDA graphs.

Enters: the requests' settings as tensors. Leaves: codes, position by position. Steps read and write only the session's
own buffers, and nothing in them waits for a device.
Shapes: B images, R rows (2 B where any image is guided), T codes, P = T cached positions, V codebook size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from alitok.generator.model import Generator
from alitok.sampling.guidance import RowSettings, next_codes, soft_weights
from alitok.sampling.noise import ImageNoise
from alitok.sampling.runner import StepRunner, Where
from alitok.sampling.settings import SampleRequest

NOISE_AHEAD = 16  # positions whose noise is drawn at a time
READ_AT_ONCE = 32  # given codes that are read at a time
GRAPH_STEP = 64  # positions by which the attention of a CUDA graph grows


@dataclass(frozen=True)
class Kind:
    """What must be alike for two batches to share buffers and graphs."""

    batch: int
    guided: bool
    filtered: bool
    softened: bool
    random: bool

    @classmethod
    def of(cls, batch: int, rows: RowSettings) -> Kind:
        """The kind of a batch with these settings."""
        return cls(batch, rows.guided, rows.filtered, rows.softened, rows.random)

    @property
    def rows(self) -> int:
        """R: an image has two where any is guided."""
        return self.batch * (2 if self.guided else 1)


class Session:
    """The buffers of a batch, and the step over them. Steps read and write only these, so they can be replayed.

    Args:
        generator: for its sizes and tokens.
        step: reads one token of each row.
        reader: reads many, where codes are given.
        kind: of the batches that it is for.
        cache_dtype: of keys and values.
        graphs: whether steps are recorded.
    """

    def __init__(
        self,
        generator: Generator,
        step: StepRunner,
        reader: StepRunner,
        kind: Kind,
        cache_dtype: torch.dtype,
        graphs: bool,
    ) -> None:
        config, device = generator.config, generator.embeddings.weight.device
        self.kind, self._generator, self._run, self._reader = kind, generator, step, reader
        length, size = config.sequence_length, config.codebook_size
        self._cache = new_cache(generator, kind.rows, cache_dtype)
        self.tokens = torch.zeros(kind.rows, dtype=torch.int64, device=device)
        self.codes = torch.zeros(kind.batch, length, dtype=torch.int64, device=device)
        self._confidence = torch.zeros(kind.batch, length, device=device)
        self._noise = torch.zeros(kind.batch, NOISE_AHEAD, size if kind.random else 0, device=device)
        self._rows: RowSettings | None = None
        self._drawn: ImageNoise | None = None
        self._graphs = _Graphs(self, device) if graphs else None

    def begin(self, requests: Sequence[SampleRequest], rows: RowSettings) -> int:
        """Take up new images; read the codes that are given in all of them.

        Returns:
            The first position that is to be drawn.
        """
        device = self.codes.device
        self._rows = rows if self._rows is None else _copied(self._rows, rows)
        self._drawn = ImageNoise([(request.seed, request.index) for request in requests], device)
        classes = torch.tensor([request.label for request in requests], device=device)
        if self.kind.guided:
            classes = torch.cat([classes, torch.full_like(classes, self._generator.null_class)])
        tokens = self._generator.class_tokens(classes)
        # SoftCFG's weights differ from step to step, so its given codes are read one by one, like drawn ones.
        known = 0 if rows.softened else min(rows.common, self.codes.shape[1] - 1)
        if known:
            given = rows.given[:, :known]
            self.codes[:, :known] = given
            given = torch.cat([given, given]) if self.kind.guided else given
            logits = self._read(torch.cat([tokens[:, None], given], dim=1))
            self._refill_noise(known)
            self._choose(logits, slice(known, known + 1), slice(known % NOISE_AHEAD, known % NOISE_AHEAD + 1))
            return known + 1
        self.tokens.copy_(tokens)
        return 0

    def _read(self, tokens: torch.Tensor) -> torch.Tensor:
        """Fill the cache with tokens (R, n), in portions; logits (R, V) behind the last."""
        length = tokens.shape[1]
        positions = torch.arange(length, device=tokens.device)
        for start in range(0, length, READ_AT_ONCE):
            stop = min(start + READ_AT_ONCE, length)
            hidden = positions[:stop] > positions[start:stop, None]
            logits = self._reader(tokens[:, start:stop], self._cache, slice(start, stop), stop, hidden=hidden)
        return logits

    def advance(self, position: int) -> None:
        """Draw the code at a position; those before it have been drawn."""
        if position % NOISE_AHEAD == 0:
            self._refill_noise(position)
        if self._graphs is not None:
            self._graphs.replay(position)
            return
        here, slot = position, position % NOISE_AHEAD
        self.step(slice(here, here + 1), slice(slot, slot + 1), position + 1, None)

    def step(self, where: Where, slot: Where, filled: int, hidden: torch.Tensor | None) -> None:
        """One position: read the token before it, choose its code.

        Args:
            where: the position.
            slot: its place in the noise that was drawn ahead.
            filled: how many cached positions are looked at.
            hidden: which of them are not filled yet.
        """
        assert self._rows is not None
        weights = self._value_weights(where, filled) if self.kind.softened else None
        logits = self._run(self.tokens[:, None], self._cache, where, filled, hidden=hidden, value_weights=weights)
        self._choose(logits, where, slot)

    def _choose(self, logits: torch.Tensor, where: Where, slot: Where) -> None:
        rows, batch = self._rows, self.kind.batch
        assert rows is not None
        conditional, unconditional = (logits[:batch], logits[batch:]) if self.kind.guided else (logits, None)
        noise = self._noise[:, slot].flatten(1) if self.kind.random else None
        drawn = next_codes(conditional, unconditional, rows.scales[:, where], noise, rows)
        given = rows.given[:, where].flatten()
        drawn = torch.where(given >= 0, given, drawn)
        self.codes[:, where] = drawn[:, None]
        if self.kind.softened:
            self._confidence[:, where] = conditional.softmax(-1).amax(-1, keepdim=True)
        self.tokens.copy_(torch.cat([drawn, drawn]) if self.kind.guided else drawn)

    def _value_weights(self, where: Where, filled: int) -> torch.Tensor:
        """(R, filled): SoftCFG on the unconditional rows that asked for it, 1 elsewhere."""
        assert self._rows is not None
        drawn = self._confidence[:, : filled - 1]
        if isinstance(where, torch.Tensor):  # the buffer holds an earlier batch's numbers behind this position
            drawn = drawn.masked_fill(torch.arange(filled - 1, device=drawn.device) >= where, 0.0)
        weights = torch.ones(2, len(drawn), filled, device=drawn.device)
        if filled > 1:
            weights[1, :, 1:] = torch.where(self._rows.soft, soft_weights(drawn), 1.0)
        return weights.flatten(0, 1)

    def _refill_noise(self, position: int) -> None:
        if self.kind.random:
            assert self._drawn is not None
            first = position - position % NOISE_AHEAD
            self._noise.copy_(self._drawn.gumbel(first, NOISE_AHEAD, self._noise.shape[-1]))


def new_cache(generator: Generator, rows: int, dtype: torch.dtype) -> torch.Tensor:
    """Room for keys and values (layers, 2, R, N, P, E), all zero, as what is hidden must still be numbers."""
    config, device = generator.config, generator.embeddings.weight.device
    shape = config.layers, 2, rows, config.heads, config.sequence_length, config.width // config.heads
    return torch.zeros(shape, device=device, dtype=dtype)


def _copied(into: RowSettings, new: RowSettings) -> RowSettings:
    """Write the tensors of `new` into those of `into`, where recorded graphs read them."""
    for name in ("scales", "temperature", "greedy", "top_k", "top_p", "min_p", "soft", "given"):
        getattr(into, name).copy_(getattr(new, name))
    return into


class _Graphs:
    """Steps recorded once and replayed: one graph per length of attention, the position read on the device."""

    def __init__(self, session: Session, device: torch.device) -> None:
        self._session = session
        self._position = torch.zeros(1, dtype=torch.int64, device=device)
        self._slot = torch.zeros(1, dtype=torch.int64, device=device)
        self._recorded: dict[int, torch.cuda.CUDAGraph] = {}
        self._pool: Any = None  # they run one after the other, so they share their memory

    def replay(self, position: int) -> None:
        """The step at this position; the first one of a length is recorded."""
        self._position.fill_(position)
        self._slot.fill_(position % NOISE_AHEAD)
        length = self._session.codes.shape[1]
        filled = min(-(-(position + 1) // GRAPH_STEP) * GRAPH_STEP, length)
        if self._position.device.type != "cuda":
            self._step(filled)
            return
        with torch.cuda.device(self._position.device):
            if filled not in self._recorded:
                self._recorded[filled] = self._record(filled)
            self._recorded[filled].replay()

    def _step(self, filled: int) -> None:
        hidden = torch.arange(filled, device=self._position.device) > self._position
        self._session.step(self._position, self._slot, filled, hidden)

    def _record(self, filled: int) -> torch.cuda.CUDAGraph:
        """Run once for the libraries to set themselves up, then record. The session's tokens are put back."""
        tokens = self._session.tokens
        kept = tokens.clone()
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            self._step(filled)
        torch.cuda.current_stream().wait_stream(side)
        tokens.copy_(kept)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            self._step(filled)
        self._pool = graph.pool()
        tokens.copy_(kept)
        return graph
