"""Rows of labelled images as squares for training.

Enters: `Images` and the rows that belong to a split. Leaves: images (3, size, size) uint8, decoded each time they
are read.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from alitok.data.crops import CropRecipe, centre_crop, five_crops, random_crop, stack_views, to_array
from alitok.data.decode import in_threads, read_image, reason, too_small, without_remarks
from alitok.data.images import Broken, Images


@dataclass(eq=False)
class DecodedSource:
    """The one `ImageSource` of everything that is decoded from files.

    Attributes:
        name: for people.
        images: where they come from.
        rows: (N,) int64, those of `images` that are read, ascending.
        size: pixels a side.
        flip: whether a mirrored image is still one of its class.
        left_out: broken ones that have no row; `verify` returns them with those it finds.
    """

    name: str
    images: Images
    rows: np.ndarray
    size: int
    flip: bool = True
    left_out: tuple[Broken, ...] = ()

    def __post_init__(self) -> None:
        self.classes = self.images.classes
        self.labels = self.images.labels[self.rows]
        groups = self.images.groups
        self.groups = None if groups is None else groups[self.rows]

    def __len__(self) -> int:
        return len(self.rows)

    def key(self, index: int) -> str:
        """The name of an image, the same whatever other images are left out."""
        return self.images.key(int(self.rows[index]))

    def read(self, index: int, rng: np.random.Generator | None) -> np.ndarray:
        """(3, size, size) uint8: the centre crop, or with `rng` a random crop at 1.1 x, mirrored half of the time.

        Raises:
            AlitokError: the image is gone, damaged or truncated.
        """
        image = self._decode(index)
        if rng is None:
            return to_array(centre_crop(image, self.size))
        crop = to_array(random_crop(image, self.size, rng))
        mirrored = self.flip and rng.random() < 0.5
        return np.ascontiguousarray(crop[:, :, ::-1]) if mirrored else crop

    def views(self, index: int, recipe: CropRecipe) -> np.ndarray:
        """(C, 3, size, size) uint8: the centre crop, or with `ten` the corners and the centre at 1.1 x.

        Raises:
            AlitokError: the image is gone, damaged or truncated.
        """
        image = self._decode(index)
        crops = five_crops(image, self.size) if recipe == "ten" else [centre_crop(image, self.size)]
        return stack_views([to_array(crop) for crop in crops], self.flip and recipe != "centre")

    def _decode(self, index: int) -> Image.Image:
        with without_remarks():
            return read_image(self.images, int(self.rows[index]))

    def verify(self, progress: Callable[[int], None] | None = None, part: tuple[int, int] = (0, 1)) -> list[Broken]:
        """Decode every image once, several at a time.

        Args:
            progress: called with the number of images done after each image.
            part: number of this process and of all; each decodes its share, a run of neighbours.

        Returns:
            Those that cannot be used, in order.

        Raises:
            AlitokError: no image can be read, as when the network is gone.
        """
        rank, processes = part
        start, end = (len(self) * bound // processes for bound in (rank, rank + 1))
        broken = [] if rank else list(self.left_out)
        with without_remarks():
            for done, found in enumerate(in_threads(self._problem, range(start, end)), start=1):
                if found is not None:
                    broken.append(found)
                if progress is not None:
                    progress(min(done * processes, len(self)))
        return broken

    def _problem(self, index: int) -> Broken | None:
        row = int(self.rows[index])
        try:
            problem = too_small(*read_image(self.images, row).size, self.size)
        except Exception as error:
            problem = reason(error)
        return Broken(self.images.key(row), problem) if problem else None

    def without(self, keys: Collection[str]) -> DecodedSource:
        """The same images without those named by `keys`; keys of others do no harm."""
        rows = self.rows
        if keys:
            unwanted = set(keys)
            rows = rows[np.array([self.images.key(row) not in unwanted for row in rows.tolist()], bool)]
        return replace(self, rows=rows, left_out=())
