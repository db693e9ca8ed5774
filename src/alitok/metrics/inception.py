"""The feature network of FID: TensorFlow's Inception-v3 of 2015 in torch-fidelity's port.

Images (B, 3, h, w) uint8 of any size are resized to 299 x 299 as in TensorFlow 1. The outputs are the tensors that
ADM's evaluator reads from TensorFlow's graph:

    pool           (B, 2048)  `pool_3:0`: FID, KID, precision and recall
    spatial        (B, 2023)  the first 7 of 192 channels of `mixed_6/conv:0`, 17 x 17: sFID
    probabilities  (B, 1008)  softmax of `softmax/logits/MatMul`, so without the bias: Inception Score

`mixed_6` is the seventh of the graph's eleven blocks (`mixed`, `mixed_1`, ...): torch-fidelity's `Mixed_6d`, not the
`Mixed_6e` that its 768 features end with. `conv` is its 1 x 1 branch after batch norm and ReLU. Values are in the
graph's order (height, width, channel), so that ADM's `mu_s` and `sigma_s` fit.

Sources: torch-fidelity 0.4; Dhariwal and Nichol 2021 (evaluator); Nash et al. 2021 (sFID).
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any, Self

import torch
from torch import nn

from alitok.core.checkpoint import Tensors, fingerprint, patience, read_weights
from alitok.core.errors import AlitokError, error_text
from alitok.core.files import sha256
from alitok.metrics.features import Features, full_precision

POOL, SPATIAL, CLASSES = 2048, 7 * 17 * 17, 1008
OFFICIAL = "inception-2015-12-05"  # with the weights that published numbers use
_CHANNELS = 7
_HASH = "6726825d"  # the first digits of the official file's SHA-256
_FILES = f"pt_{OFFICIAL}-{_HASH}.pth", f"weights-{OFFICIAL}-{_HASH}.pth"  # pytorch-fid's name, and its own


class InceptionFeatures(nn.Module):
    """Inception-v3, always in evaluation mode and without gradients; made by `load`.

    `name` is `OFFICIAL` for the official weights, else it ends with a hash of the weights, whose SHA-256 is `weights`;
    `distance` is "FID" with the official weights only.
    """

    def __init__(self, network: nn.Module, name: str, weights: str) -> None:
        super().__init__()
        self.network, self.name, self.weights = network, name, weights
        self.distance = "FID" if name == OFFICIAL else f"Frechet distance in the features of {name}"
        self.eval()

    @classmethod
    def load(cls, weights: Path | None = None) -> Self:
        """Load on the CPU a .pth or safetensors file; None = PyTorch's cache, downloaded if need be.

        Raises:
            AlitokError: torch-fidelity is not installed, or the weights are unavailable or do not fit.
        """
        try:
            from torch_fidelity import feature_extractor_inceptionv3 as library
        except ImportError:
            raise AlitokError(
                "Inception features need torch-fidelity; install it with pip install 'alitok[eval]'."
            ) from None
        path = _find(library.URL_INCEPTION_V3) if weights is None else weights
        advice = f"pass the path of {_FILES[0]}"
        tensors = read_weights(path, advice)
        if not all(tensor.isfinite().all() for tensor in tensors.values()):
            raise AlitokError(f"{path} holds values that are not finite; {advice}.")
        file_hash = sha256(path)
        official = file_hash.startswith(_HASH)
        if weights is None and not official:
            raise AlitokError(f"{path} is damaged: its checksum does not start with {_HASH}; delete it and try again.")
        name = OFFICIAL if official else f"inception-{fingerprint(tensors, {})}"
        return cls(_build(library, tensors, path), name, file_hash)

    @torch.no_grad()
    def forward(self, images: torch.Tensor) -> Features:
        """Images (B, 3, h, w) uint8 on the network's device -> features, in float32 without autocast or TF32.

        Spatial is indexed by (row * 17 + column) * 7 + channel; it and pool are >= 0.
        """
        assert images.dtype == torch.uint8, images.dtype
        assert images.ndim == 4, images.shape
        assert images.shape[1] == 3, images.shape
        taken: list[torch.Tensor] = []
        branch = self.network.get_submodule("Mixed_6d.branch1x1")
        with branch.register_forward_hook(lambda *call: taken.append(call[2])), full_precision(images.device):
            pool, logits = self.network(images)
        spatial = taken[0][:, :_CHANNELS].permute(0, 2, 3, 1).flatten(1)  # (B, 7, 17, 17) -> (B, 17 * 17 * 7)
        return Features(pool, spatial, logits.softmax(1))

    def train(self, mode: bool = True) -> Self:
        """Stay in evaluation mode."""
        return super().train(False)


def _find(url: str) -> Path:
    cache = Path(torch.hub.get_dir(), "checkpoints")
    for file in _FILES:
        if (cache / file).is_file():
            return cache / file
    place = cache / url.rpartition("/")[2]
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with patience():
            torch.hub.download_url_to_file(url, str(place), hash_prefix=_HASH, progress=False)
    except Exception as error:  # no network, a full disk, a proxy's page instead: each raises something else
        reason = error_text(error).rstrip(".")
        raise AlitokError(
            f"Inception weights are not in {cache} and could not be downloaded ({reason}); put {_FILES[0]} there, or "
            "pass its path with --inception-weights FILE."
        ) from None
    return place


def _build(library: Any, tensors: Tensors, path: Path) -> nn.Module:
    """torch-fidelity's network, whose constructor takes weights only as a file; it gets them in memory."""
    buffer = io.BytesIO()
    torch.save(tensors, buffer)
    buffer.seek(0)
    try:
        return library.FeatureExtractorInceptionV3(
            "inception-v3-compat", ["2048", "logits_unbiased"], feature_extractor_weights_path=buffer
        )
    except RuntimeError:  # its message lists hundreds of names
        raise AlitokError(
            f"{path} does not hold the weights of TensorFlow's Inception-v3 with 1008 classes (torchvision's is "
            f"another network); pass the path of {_FILES[0]}."
        ) from None
