"""The fast sampler: the same codes as `alitok.sampling.oracle`, close to the limit of the hardware.

Both guidance branches are rows of one batch over a cache of fixed size; nothing in the loop waits for a device.
Shapes: B images, R rows (2 B where any image is guided), T codes, P = T cached positions, V codebook size.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from alitok.core.errors import AlitokError
from alitok.generator.model import Generator
from alitok.sampling.guidance import RowSettings, next_codes, soft_weights
from alitok.sampling.kernels import KERNELS, row_class
from alitok.sampling.noise import ImageNoise
from alitok.sampling.runner import Runner, Where
from alitok.sampling.settings import EnginePrecision, SampleRequest

if TYPE_CHECKING:
    from alitok.sampling.fused import FusedRunner

    StepRunner = Runner | FusedRunner

NOISE_AHEAD = 16  # positions whose noise is drawn at a time
READ_AT_ONCE = 32  # given codes that are read at a time
GRAPH_STEP = 64  # positions by which the attention of a CUDA graph grows
_FUSED_ROWS = 16  # with more, arithmetic is the limit, and PyTorch's products are better at that
_MEASURED_STEPS = 4


class Engine:
    """Samples codes with one generator; make it once and use it for many batches.

    Raises AlitokError if no such kernel exists for the generator's device, or its weights are not float32.

    Args:
        generator: in evaluation mode; its parameters must not change while the engine is used.
        precision: `fp32` is exact, `bf16` and `int8` (on a CPU) are faster; docs/performance.md lists their errors.
        kernel: a name in `alitok.sampling.kernels`, or `fused` (Numba, on a CPU); None = the fastest by measurement.
        graphs: whether steps are replayed as CUDA graphs; None = on a GPU.
    """

    def __init__(
        self,
        generator: Generator,
        precision: EnginePrecision = "fp32",
        *,
        kernel: str | None = None,
        graphs: bool | None = None,
    ) -> None:
        weight = generator.embeddings.weight
        if weight.dtype != torch.float32:
            raise AlitokError(f"The engine takes float32 weights, not {weight.dtype}; choose the precision instead.")
        self.generator = generator
        self.precision = precision
        self.device = weight.device
        self._graphs = self.device.type == "cuda" if graphs is None else graphs
        if kernel not in (None, "fused", *KERNELS):
            raise AlitokError(f"Unknown kernel {kernel!r}; choose fused, {', '.join(KERNELS)}.")
        self._kernel = kernel
        self._fused: FusedRunner | None = None
        if kernel == "fused" and not self._may_fuse():
            raise AlitokError("The kernel fused needs a CPU, no graphs, and Numba: pip install 'alitok[cpu]'.")
        self._fuses: dict[int, bool] = {}  # by the class of rows
        self._runner = Runner(generator, precision, kernel)
        self._step: StepRunner = self._runner
        # Given codes are many rows at once, for which no kernel beats the plain one.
        self._reader = self._runner if self.device.type != "cpu" else Runner(generator, "fp32", "plain")
        self._reader.choose(1)
        self._chosen_for = -1
        self._session: Session | None = None

    def sample(self, requests: Sequence[SampleRequest]) -> torch.Tensor:
        """Whole sequences (B, T) int64 on the generator's device; AlitokError if a request does not fit it."""
        return torch.cat(list(self.stream(requests)), dim=1)

    @torch.inference_mode()
    def stream(self, requests: Sequence[SampleRequest]) -> Iterator[torch.Tensor]:
        """The codes of `sample`, with its errors, as they come: the prefix (B, K) if any, then each grid row (B, G)."""
        config = self.generator.config
        if not requests:
            raise AlitokError("No images requested; give at least one.")
        for request in requests:
            if not 0 <= request.label <= config.classes:
                raise AlitokError(f"Class {request.label} does not exist; classes are 0 to {config.classes - 1}.")
        rows = RowSettings.of(requests, config.sequence_length, config.codebook_size, self.device)
        starts = [*([0] if config.prefix else []), *range(config.prefix, config.sequence_length, config.grid)]
        with self._session_for(rows) as session:
            position = session.begin(requests, rows)
            for start, stop in zip(starts, [*starts[1:], config.sequence_length], strict=True):
                while position < stop:
                    session.advance(position)
                    position += 1
                yield session.codes[:, start:stop].clone()

    @torch.inference_mode()
    def step_seconds(self, requests: Sequence[SampleRequest], position: int) -> float:
        """Seconds of one step at a position, after a warm-up step; the contents of the cache do not matter."""
        config = self.generator.config
        rows = RowSettings.of(requests, config.sequence_length, config.codebook_size, self.device)
        with self._session_for(rows) as session:
            session.begin(requests, rows)
            session.advance(position)
            self._wait()
            began = time.perf_counter()
            session.advance(position)
            self._wait()
        return time.perf_counter() - began

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    @contextmanager
    def _session_for(self, rows: RowSettings) -> Iterator[Session]:
        """The previous batch's buffers if this batch is of the same kind and that one has ended, else new ones."""
        session, self._session = self._session, None
        if session is None or session.rows.kind != rows.kind:
            del session  # frees its memory first
            self._choose_kernels(rows.rows)
            session = Session(self.generator, self._step, self._reader, rows, self.cache_dtype, self._graphs)
        try:
            yield session
        finally:
            self._session = session

    def _choose_kernels(self, rows: int) -> None:
        """Use the kernels for about so many rows; a GPU has only one kind."""
        size = row_class(rows) if self.device.type == "cpu" else 0
        if size == self._chosen_for:
            return
        self._chosen_for = size
        if size not in self._fuses:
            self._fuses[size] = self._fused_is_faster(rows)
        if self._fuses[size]:
            self._step = self._fused_runner()
            self._runner.release()
        else:
            self._step = self._runner
            self._runner.choose(rows)

    def _fused_is_faster(self, rows: int) -> bool:
        if self._kernel == "fused":
            return True
        if self._kernel is not None or rows > _FUSED_ROWS or not self._may_fuse():
            return False
        self._runner.choose(rows)
        return self._seconds(self._fused_runner(), rows) < self._seconds(self._runner, rows)

    def _may_fuse(self) -> bool:
        if self.device.type != "cpu" or self._graphs:
            return False
        try:  # Numba may be missing, or have no place for its cache
            importlib.import_module("alitok.sampling.fused")
        except (ImportError, RuntimeError):
            return False
        return True

    def _fused_runner(self) -> FusedRunner:
        from alitok.sampling.fused import FusedRunner  # imports Numba, which may be missing

        self._fused = self._fused or FusedRunner(self.generator, self.precision)
        return self._fused

    def _seconds(self, run: StepRunner, rows: int) -> float:
        """Of a step at half the length, the best of several."""
        position = self.generator.config.sequence_length // 2
        cache = new_cache(self.generator, rows, torch.float32)
        tokens, times = torch.zeros(rows, 1, dtype=torch.int64), []
        for _ in range(1 + _MEASURED_STEPS):
            began = time.perf_counter()
            run(tokens, cache, slice(position, position + 1), position + 1)
            times.append(time.perf_counter() - began)
        return min(times[1:])

    @property
    def kernel_names(self) -> dict[str, str]:
        """The kernels in use, by layer name; empty before the first batch."""
        if self._step is not self._runner:
            return {"block": "fused"}
        return dict(self._runner.kernel_names)

    @property
    def cache_dtype(self) -> torch.dtype:
        """Dtype of cached keys and values."""
        # A CPU multiplies bf16 matrices of one row more slowly than it reads fp32.
        return torch.bfloat16 if self.precision == "bf16" and self.device.type != "cpu" else torch.float32


class Session:
    """The buffers of a running batch and the step over them, which touches nothing else, so that it can be replayed.

    `step` runs one token of each row, `reader` many, where codes are given; later batches of the kind replace `rows`.
    """

    def __init__(
        self,
        generator: Generator,
        step: StepRunner,
        reader: StepRunner,
        rows: RowSettings,
        cache_dtype: torch.dtype,
        graphs: bool,
    ) -> None:
        config, device = generator.config, generator.embeddings.weight.device
        self.rows, self._generator, self._run, self._reader = rows, generator, step, reader
        self._cache = new_cache(generator, rows.rows, cache_dtype)
        self.tokens = torch.zeros(rows.rows, dtype=torch.int64, device=device)
        self.codes = torch.zeros_like(rows.given)
        self._confidence = torch.zeros_like(rows.scales)
        size = config.codebook_size if rows.random else 0
        self._noise = torch.zeros(len(self.codes), NOISE_AHEAD, size, device=device)
        self._random: ImageNoise | None = None
        self._graphs = _Graphs(self, device) if graphs else None

    def begin(self, requests: Sequence[SampleRequest], rows: RowSettings) -> int:
        """Start new images: run the codes that all of them give; returns the first position to sample."""
        device = self.codes.device
        for name, value in vars(rows).items():  # in place, as recorded graphs read these tensors
            if isinstance(value, torch.Tensor):
                getattr(self.rows, name).copy_(value)
        self._random = ImageNoise([(request.seed, request.index) for request in requests], device)
        classes = torch.tensor([request.label for request in requests], device=device)
        if rows.guided:
            classes = torch.cat([classes, torch.full_like(classes, self._generator.null_class)])
        tokens = self._generator.class_tokens(classes)
        # SoftCFG's weights differ from step to step, so its given codes are run one by one, like sampled ones.
        known = 0 if rows.softened else min(rows.common, self.codes.shape[1] - 1)
        if known:
            given = rows.given[:, :known]
            self.codes[:, :known] = given
            given = torch.cat([given, given]) if rows.guided else given
            logits = self._read(torch.cat([tokens[:, None], given], dim=1))
            self._refill_noise(known)
            slot = known % NOISE_AHEAD
            self._choose(logits, slice(known, known + 1), slice(slot, slot + 1))
            return known + 1
        self.tokens.copy_(tokens)
        return 0

    def _read(self, tokens: torch.Tensor) -> torch.Tensor:
        """Fill the cache with tokens (R, n), in portions; returns the logits (R, V) after the last."""
        length = tokens.shape[1]
        positions = torch.arange(length, device=tokens.device)
        for start in range(0, length, READ_AT_ONCE):
            stop = min(start + READ_AT_ONCE, length)
            hidden = positions[:stop] > positions[start:stop, None]
            logits = self._reader(tokens[:, start:stop], self._cache, slice(start, stop), stop, hidden=hidden)
        return logits

    def advance(self, position: int) -> None:
        """Sample the code at a position; those before it are there."""
        if position % NOISE_AHEAD == 0:
            self._refill_noise(position)
        if self._graphs is not None:
            self._graphs.replay(position)
            return
        slot = position % NOISE_AHEAD
        self.step(slice(position, position + 1), slice(slot, slot + 1), position + 1, None)

    def step(self, where: Where, slot: Where, filled: int, hidden: torch.Tensor | None) -> None:
        """Run the token before position `where` and choose its code.

        Args:
            slot: its place in the noise that was drawn ahead.
            filled: number of cached positions that attention sees; `hidden` masks those of them not filled yet.
        """
        weights = self._value_weights(where, filled) if self.rows.softened else None
        logits = self._run(self.tokens[:, None], self._cache, where, filled, hidden=hidden, value_weights=weights)
        self._choose(logits, where, slot)

    def _choose(self, logits: torch.Tensor, where: Where, slot: Where) -> None:
        rows, batch = self.rows, len(self.codes)
        conditional, unconditional = (logits[:batch], logits[batch:]) if rows.guided else (logits, None)
        noise = self._noise[:, slot].flatten(1) if rows.random else None
        chosen = next_codes(conditional, unconditional, rows.scales[:, where], noise, rows)
        given = rows.given[:, where].flatten()
        chosen = torch.where(given >= 0, given, chosen)
        self.codes[:, where] = chosen[:, None]
        if rows.softened:
            self._confidence[:, where] = conditional.softmax(-1).amax(-1, keepdim=True)
        self.tokens.copy_(torch.cat([chosen, chosen]) if rows.guided else chosen)

    def _value_weights(self, where: Where, filled: int) -> torch.Tensor:
        """(R, filled): SoftCFG on the unconditional rows that use it, 1 elsewhere."""
        sure = self._confidence[:, : filled - 1]
        if isinstance(where, torch.Tensor):  # after this position the buffer holds an earlier batch's numbers
            sure = sure.masked_fill(torch.arange(filled - 1, device=sure.device) >= where, 0.0)
        weights = torch.ones(2, len(sure), filled, device=sure.device)
        if filled > 1:
            weights[1, :, 1:] = torch.where(self.rows.soft, soft_weights(sure), 1.0)
        return weights.flatten(0, 1)

    def _refill_noise(self, position: int) -> None:
        if self.rows.random:
            assert self._random is not None
            first = position - position % NOISE_AHEAD
            self._noise.copy_(self._random.gumbel(first, NOISE_AHEAD, self._noise.shape[-1]))


def new_cache(generator: Generator, rows: int, dtype: torch.dtype) -> torch.Tensor:
    """Keys and values (layers, 2, R, N, P, E), all zero, as even hidden positions must hold numbers."""
    config, device = generator.config, generator.embeddings.weight.device
    shape = config.layers, 2, rows, config.heads, config.sequence_length, config.width // config.heads
    return torch.zeros(shape, device=device, dtype=dtype)


class _Graphs:
    """Steps recorded once and replayed: one graph per length of attention, the position read on the device."""

    def __init__(self, session: Session, device: torch.device) -> None:
        self._session = session
        self._position = torch.zeros(1, dtype=torch.int64, device=device)
        self._slot = torch.zeros(1, dtype=torch.int64, device=device)
        self._recorded: dict[int, torch.cuda.CUDAGraph] = {}
        self._pool: Any = None  # they run one after the other, so they share their memory

    def replay(self, position: int) -> None:
        """Run the step at this position; the first of each length is recorded."""
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
        """Run once for the libraries to set themselves up, then record; restores the session's tokens."""
        tokens = self._session.tokens
        before = tokens.clone()
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            self._step(filled)
        torch.cuda.current_stream().wait_stream(side)
        tokens.copy_(before)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            self._step(filled)
        self._pool = graph.pool()
        tokens.copy_(before)
        return graph
