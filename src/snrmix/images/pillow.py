"""Pictures from Pillow images."""

from __future__ import annotations

import numpy as np

from snrmix.images.picture import ORIENTATION, Picture, as_displayed


def from_pillow(image, name: str) -> Picture:
    """Read a Pillow image of any mode, as it is displayed.

    Raises
    ------
    OSError, ValueError
        When it cannot be decoded, or is CIELAB.
    """
    image.load()
    mode, key, opacity = image.mode, image.info.get("transparency"), None
    if mode.startswith(("I", "F")):  # 16 or 32 bits, which conversion to RGB would clip
        array = np.asarray(image)
        if isinstance(key, int):
            array, opacity = np.dstack([array, np.where(array == key, 0, 65535).astype(array.dtype)]), "straight"
    elif mode == "LAB":
        raise ValueError(f"{name} is in CIELAB; convert it to RGB first.")
    elif mode in ("La", "RGBa"):
        array, opacity = np.asarray(image), "associated"
    elif image.has_transparency_data:
        array, opacity = np.asarray(image.convert("RGBA")), "straight"
    else:
        array = np.asarray(image.convert("RGB"))
    array = array[:, :, None] if array.ndim == 2 else array
    return Picture(tuple(as_displayed([array], image.getexif().get(ORIENTATION, 1), name)), name, opacity=opacity)
