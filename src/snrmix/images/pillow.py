"""Pictures from Pillow images."""

from __future__ import annotations

import io

import numpy as np

from snrmix.images.picture import ORIENTATION, Picture, as_displayed

SPACES = {"CMYK": "CMYK", "L": "GRAY"}  # what a profile is of, by mode; of the others it is RGB


def in_srgb(image):
    """A Pillow image in RGB as screens show it: colours of an embedded profile, such as Display P3, become those of sRGB."""
    from PIL import ImageCms

    stored = image if image.mode in (*SPACES, "RGB") else image.convert("RGB")  # a copy is as large as the image
    profile = image.info.get("icc_profile")
    if profile:
        try:
            own = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            is_meant = own.profile.xcolor_space.strip() == SPACES.get(image.mode, "RGB")
            if is_meant and "srgb" not in ImageCms.getProfileDescription(own).casefold():
                return ImageCms.profileToProfile(stored, own, ImageCms.createProfile("sRGB"), outputMode="RGB")
        except (ImageCms.PyCMSError, OSError, ValueError):
            pass  # a broken profile says nothing
    return stored if stored.mode == "RGB" else stored.convert("RGB")


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
        array, opacity = np.dstack([in_srgb(image), image.convert("RGBA").getchannel("A")]), "straight"
    else:
        array = np.asarray(in_srgb(image))
    array = array[:, :, None] if array.ndim == 2 else array
    return Picture(tuple(as_displayed([array], image.getexif().get(ORIENTATION, 1), name)), name, opacity=opacity)
