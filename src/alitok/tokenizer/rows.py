"""Decoding an image row by row as its codes arrive; equals `Tokenizer.decode(codes, "stage1")`.

Shapes: B images, h image side, f patch side, G grid side, K prefix, T = K + G * G codes, W width of the decoder.
"""

from __future__ import annotations

import torch

from alitok.core.errors import AlitokError
from alitok.tokenizer.model import Tokenizer
from alitok.tokenizer.vit import Decoder


class RowDecoder:
    """Decodes B images from their first code to the last; rows are final, as no pixel depends on codes of a later row.

    Raises:
        AlitokError: the stage-1 decoder is missing or not causal, or `batch` is less than 1.
    """

    def __init__(self, tokenizer: Tokenizer, batch: int) -> None:
        decoder = tokenizer.decoder("stage1")
        if not isinstance(decoder, Decoder) or not decoder.config.causal:
            raise AlitokError(
                "The stage-1 decoder of this tokenizer is not causal, so no row is final before the last code; "
                "use Tokenizer.decode on whole images."
            )
        if batch < 1:
            raise AlitokError(f"batch must be at least 1, not {batch}.")
        self._quantizer, self._decoder = tokenizer.quantizer, decoder
        self._length = tokenizer.config.sequence_length
        self._batch = batch
        self._received = 0  # codes
        self._cache = decoder.new_cache(batch)
        positions = decoder.positions
        self._open = positions.new_empty(batch, 0, positions.shape[1])  # (B, < G, W), of an incomplete row

    @torch.inference_mode()
    def extend(self, codes: torch.Tensor) -> torch.Tensor:
        """Add codes (B, n), prefix first, and return the r >= 0 rows now complete, (B, 3, r * f, h) in [0, 1].

        Raises:
            AlitokError: codes of another shape or dtype, or more than are left.
        """
        if codes.ndim != 2 or len(codes) != self._batch or codes.is_floating_point():
            raise AlitokError(f"Codes must be integers ({self._batch}, n), not {codes.dtype} {tuple(codes.shape)}.")
        count, left = codes.shape[1], self._length - self._received
        if count > left:
            raise AlitokError(f"These images have {left} of {self._length} codes left, fewer than the {count} given.")
        read = codes[:, max(self._decoder.unread - self._received, 0) :]
        if read.shape[1]:
            x = self._decoder.read(self._quantizer.lookup(read.long()), self._cache)
            on_grid = min(count, max(self._received + count - self._decoder.prefix, 0))
            self._open = torch.cat([self._open, x[:, x.shape[1] - on_grid :]], dim=1)
        self._received += count
        return self._complete_rows()

    def _complete_rows(self) -> torch.Tensor:
        grid, head = self._decoder.grid, self._decoder.head
        rows = self._open.shape[1] // grid
        if not rows:
            return head.mix.weight.new_empty(self._batch, 3, 0, grid * head.patch_size)
        done, self._open = self._open.tensor_split([rows * grid], dim=1)
        return head(done, rows=rows)
