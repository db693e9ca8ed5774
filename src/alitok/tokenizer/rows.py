"""An image drawn row by row while its codes are still coming in, through the causal stage-1 decoder.

Enters: codes, in order and in portions of any size. Leaves: the rows of pixels that they complete, the same as those of
`Tokenizer.decode(codes, "stage1")`. Every code passes through the transformer once, so a further row costs its own
codes and no more.

Shapes: B images, h image side, f patch side, G grid side, K prefix, T = K + G * G codes, W width of the decoder.
"""

from __future__ import annotations

import torch

from alitok.core.errors import AlitokError
from alitok.tokenizer.model import Tokenizer
from alitok.tokenizer.vit import Decoder


class RowDecoder:
    """Code rows in, image rows out, through the causal decoder; for B images, from their first code to the last.

    What has been drawn is final: no pixel depends on a code of a later row.

    Args:
        tokenizer: in evaluation mode; its stage-1 decoder draws, where and in what its weights are.
        batch: B.

    Raises:
        AlitokError: there is no stage-1 decoder, or it is not causal; `batch` is less than 1.
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
        self._taken = 0  # codes taken in so far
        self._cache = decoder.new_cache(batch)
        positions = decoder.positions
        self._open = positions.new_empty(batch, 0, positions.shape[1])  # (B, < G, W), the begun row's grid positions

    @torch.inference_mode()
    def extend(self, codes: torch.Tensor) -> torch.Tensor:
        """Take in the next codes and draw the rows that are now complete.

        Args:
            codes: (B, n) whole numbers, those behind the codes of the calls before; the K prefix codes come first.

        Returns:
            (B, 3, r * f, h) in [0, 1], the next r rows of patches; r may be 0.

        Raises:
            AlitokError: codes of another shape or kind, or more than are left of the image.
        """
        if codes.ndim != 2 or len(codes) != self._batch or codes.is_floating_point():
            raise AlitokError(
                f"Codes must be whole numbers ({self._batch}, n), not {codes.dtype} {tuple(codes.shape)}."
            )
        count, left = codes.shape[1], self._length - self._taken
        if count > left:
            raise AlitokError(f"{left} of {self._length} codes are left of these images, fewer than the {count} given.")
        read = codes[:, max(self._decoder.unread - self._taken, 0) :]
        if read.shape[1]:
            x = self._decoder.read(self._quantizer.lookup(read.long()), self._cache)
            on_grid = min(count, max(self._taken + count - self._decoder.prefix, 0))
            self._open = torch.cat([self._open, x[:, x.shape[1] - on_grid :]], dim=1)
        self._taken += count
        return self._draw()

    def _draw(self) -> torch.Tensor:
        """Turn whole rows of the open positions into pixels."""
        grid, head = self._decoder.grid, self._decoder.head
        rows = self._open.shape[1] // grid
        if not rows:
            return head.mix.weight.new_empty(self._batch, 3, 0, grid * head.patch_size)
        done, self._open = self._open.tensor_split([rows * grid], dim=1)
        return head(done, rows=rows)
