"""The tokenizer's objective, as named terms and their weighted sum.

Enters: images (B, 3, h, h) in [0, 1], reconstructions, and for stage 1 the prefix strip and the quantizer's loss.
Leaves: name -> scalar tensor, `loss` being the sum that is minimised.

Source: AliTok, equation for L_recon and L_aux; spec: `L = L_mse + L_quant + L_aux` here, without feature networks.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from alitok.core.config import config


@config
class LossWeights:
    """Weight of each term; 0 leaves a term out of the sum (it is still reported)."""

    mse: float = 1.0
    quantizer: float = 1.0
    auxiliary: float = 1.0


def auxiliary_mse(images: torch.Tensor, prefix_strip: torch.Tensor, patch_size: int) -> torch.Tensor:
    """Mean squared error between the strip that the prefix codes draw and the picture's first row of patches.

    Args:
        images: (B, 3, h, h).
        prefix_strip: (B, 3, f, K * f) with K <= G prefix patches for the row's first K, or K > G with the first
            K - G being further copies of the top-left patch (the released layout).
        patch_size: f.
    """
    row = images[:, :, :patch_size]  # (B, 3, f, h)
    copies = (prefix_strip.shape[-1] - row.shape[-1]) // patch_size
    if copies > 0:
        row = torch.cat([*[row[..., :patch_size]] * copies, row], dim=-1)
    return F.mse_loss(prefix_strip, row[..., : prefix_strip.shape[-1]])


def tokenizer_losses(
    images: torch.Tensor,
    reconstruction: torch.Tensor,
    weights: LossWeights,
    *,
    patch_size: int,
    prefix_strip: torch.Tensor | None = None,
    quantizer_loss: torch.Tensor | None = None,
) -> dict[str, torch.Tensor]:
    """The terms that apply: all three in stage 1; in stage 2, with neither strip nor quantizer loss, the MSE alone."""
    terms = {"mse": (weights.mse, F.mse_loss(reconstruction, images))}
    if quantizer_loss is not None:
        terms["quantizer"] = (weights.quantizer, quantizer_loss)
    if prefix_strip is not None:
        terms["auxiliary"] = (weights.auxiliary, auxiliary_mse(images, prefix_strip, patch_size))
    total = torch.stack([weight * term for weight, term in terms.values()]).sum()
    return {"loss": total, **{name: term for name, (_, term) in terms.items()}}
