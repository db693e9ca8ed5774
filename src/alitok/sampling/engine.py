"""The fast sampler: the same codes as `alitok.sampling.oracle`, close to the limit of the hardware.

Both guidance branches are rows of one batch over a cache of fixed size; a step reads every weight once, and nothing in
the loop waits for a device. On a GPU a step is a CUDA graph. Enters: `SampleRequest`s. Leaves: codes (B, T), at the end
or row by row.
Shapes: B images, R rows (2 B where any image is guided), T codes, P = T cached positions, V codebook size.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from alitok.core.errors import AlitokError
from alitok.generator.model import Generator
from alitok.sampling.guidance import RowSettings
from alitok.sampling.kernels import KERNELS, row_class
from alitok.sampling.runner import Runner, StepRunner
from alitok.sampling.session import NOISE_AHEAD, READ_AT_ONCE, Kind, Session, new_cache
from alitok.sampling.settings import EnginePrecision, SampleRequest

_FUSED_ROWS = 16  # with more, arithmetic is the limit, and PyTorch's products are better at that
_MEASURED_STEPS = 4


def has_numba() -> bool:
    """Whether steps can be compiled: Numba is installed, and finds a place for its cache."""
    try:
        importlib.import_module("alitok.sampling.fused")
    except (ImportError, RuntimeError):
        return False
    return True


class Engine:
    """Draws codes with one generator; make it once and use it for many batches.

    Args:
        generator: in evaluation mode; its parameters must not change while the engine is used.
        precision: `fp32` is exact, `bf16` and `int8` (on a CPU) are faster; see docs/performance.md for their errors.
        kernel: of the linear layers, by its name in `alitok.sampling.kernels`, or `fused`, the one compiled by Numba
            for a CPU; None = the fastest by measurement.
        graphs: whether steps are replayed as CUDA graphs; None = on a GPU.

    Raises:
        AlitokError: there is no such kernel for the generator's device, or its weights are not float32.
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
            raise AlitokError(f"The engine rounds float32 weights itself, these are {weight.dtype}; give precision.")
        self.generator = generator
        self.precision = precision
        self.device = weight.device
        self._graphs = self.device.type == "cuda" if graphs is None else graphs
        if kernel not in (None, "fused", *KERNELS):
            raise AlitokError(f"There is no kernel {kernel!r}; known are fused, {', '.join(KERNELS)}.")
        self._kernel = kernel
        self._fused: StepRunner | None = None
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
        """Draw whole sequences (B, T) int64, on the generator's device.

        Raises:
            AlitokError: a request that does not fit the generator.
        """
        return torch.cat(list(self.stream(requests)), dim=1)

    @torch.inference_mode()
    def stream(self, requests: Sequence[SampleRequest]) -> Iterator[torch.Tensor]:
        """Draw the same codes, handed on as they come.

        Yields:
            The prefix (B, K) if there is one, then each row of the grid (B, G).

        Raises:
            AlitokError: a request that does not fit the generator.
        """
        config = self.generator.config
        if not requests:
            raise AlitokError("No images are asked for; give at least one.")
        for request in requests:
            if not 0 <= request.label <= config.classes:
                raise AlitokError(f"Class {request.label} does not exist; classes are 0 to {config.classes - 1}.")
        rows = RowSettings.of(requests, config.sequence_length, config.codebook_size, self.device)
        starts = [*([0] if config.prefix else []), *range(config.prefix, config.sequence_length, config.grid)]
        with self._session_for(len(requests), rows) as session:
            position = session.begin(requests, rows)
            for start, stop in zip(starts, [*starts[1:], config.sequence_length], strict=True):
                while position < stop:
                    session.advance(position)
                    position += 1
                yield session.codes[:, start:stop].clone()

    @torch.inference_mode()
    def step_seconds(self, requests: Sequence[SampleRequest], position: int) -> float:
        """Time of one step at a position, on a cache filled with whatever, after one that warms up."""
        config = self.generator.config
        rows = RowSettings.of(requests, config.sequence_length, config.codebook_size, self.device)
        with self._session_for(len(requests), rows) as session:
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
    def _session_for(self, batch: int, rows: RowSettings) -> Iterator[Session]:
        """The buffers of the batch before, if this one is of the same kind and that one has ended."""
        kind = Kind.of(batch, rows)
        session, self._session = self._session, None
        if session is None or session.kind != kind:
            del session  # frees its memory first
            self._choose_kernels(kind.rows)
            session = Session(self.generator, self._step, self._reader, kind, self.cache_dtype, self._graphs)
        try:
            yield session
        finally:
            self._session = session

    def _choose_kernels(self, rows: int) -> None:
        """Those for about so many rows. On a GPU there is nothing to choose from."""
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
        return self.device.type == "cpu" and not self._graphs and has_numba()

    def _fused_runner(self) -> StepRunner:
        from alitok.sampling.fused import FusedRunner  # imports Numba, which may be missing

        self._fused = self._fused or FusedRunner(self.generator, self.precision)
        return self._fused

    def _seconds(self, run: StepRunner, rows: int) -> float:
        """Of a step at half the length, the best of a few."""
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
        """The kernels in use, by the layer's name; empty before the first batch."""
        if self._step is not self._runner:
            return {"block": "fused"}
        return dict(self._runner.kernel_names)

    @property
    def cache_dtype(self) -> torch.dtype:
        """What keys and values are kept in."""
        # A CPU multiplies bf16 matrices of one row more slowly than it reads fp32.
        return torch.bfloat16 if self.precision == "bf16" and self.device.type != "cpu" else torch.float32

    def cache_bytes(self, batch: int, *, guided: bool = True) -> int:
        """Memory of the key-value cache for a batch of images."""
        config = self.generator.config
        rows = batch * (2 if guided else 1)
        return 2 * config.layers * rows * config.sequence_length * config.width * self.cache_dtype.itemsize

    def batch_bytes(self, batch: int, *, guided: bool = True) -> int:
        """Memory of all that grows with the batch: the cache, noise, logits, and a block on given codes."""
        config = self.generator.config
        rows = batch * (2 if guided else 1)
        noise = batch * NOISE_AHEAD * config.codebook_size * (4 + 6 * 8)  # floats, and the words they are made from
        logits = 6 * rows * config.codebook_size * 4
        activations = 24 * rows * READ_AT_ONCE * config.width * 4
        scores = 3 * rows * config.heads * READ_AT_ONCE * config.sequence_length * 4
        return self.cache_bytes(batch, guided=guided) + noise + logits + activations + scores

    def largest_batch(self, free: int, *, guided: bool = True) -> int:
        """The most images that can be drawn at a time in so many bytes; at least 1."""
        one = self.batch_bytes(1, guided=guided)
        return max(free // one, 1)
