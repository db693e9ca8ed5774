"""Names that users choose from. Imports no PyTorch, so that the command line parses without loading it."""

from __future__ import annotations

from typing import Literal

DeviceName = Literal["auto", "cuda", "mps", "cpu"]
Precision = Literal["auto", "fp32", "bf16"]
CropRecipe = Literal["centre", "flip", "ten"]  # which crops of an image are encoded
SplitName = Literal["all", "train", "val"]
