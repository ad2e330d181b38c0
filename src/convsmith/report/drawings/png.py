"""Arrays as pictures that a page can hold."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
import numpy.typing as npt
from markupsafe import Markup
from PIL import Image

__all__ = ["middle", "picture_uri", "png"]

Array = npt.NDArray[Any]


def middle(image: Array, height: int, width: int) -> Array:
    """The middle of a picture ``(C, H, W)``, at most that large."""
    top = max((image.shape[1] - height) // 2, 0)
    left = max((image.shape[2] - width) // 2, 0)
    return image[:, top : top + height, left : left + width]


def png(image: Array) -> Markup:
    """A data URI of ``(C, H, W)`` between 0 and 1: RGB of three, else grey of one."""
    pixels = np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8)
    made = Image.fromarray(np.moveaxis(pixels, 0, 2) if len(pixels) == 3 else pixels[0])
    file = io.BytesIO()
    made.save(file, format="PNG", optimize=True)
    return Markup("data:image/png;base64," + base64.b64encode(file.getvalue()).decode())


def picture_uri(pixels: npt.NDArray[np.uint8]) -> Markup:
    """A data URI of a photograph ``(H, W, 3)`` or ``(H, W)``, as a JPEG: small, not exact."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="JPEG", quality=85, optimize=True)
    return Markup("data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode())
