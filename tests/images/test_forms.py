"""The same picture in every form that people store it in: the same pixels, and the same features."""

import struct

import dask.array as da
import h5py
import numpy as np
import pytest
import tifffile
import xarray as xr
import zarr
from PIL import Image, ImageCms

import snrmix
from snrmix.images import open_image

GLASS = 255


@pytest.fixture(scope="module")
def section():
    """A section in the pixels of its image, and a picture: RGB, glass around the spots that is exactly white."""
    adata = snrmix.datasets.synthetic_tissue(n_rows=12, n_genes=40, image_px_per_pitch=16)
    image = adata.uns.pop("spatial")["synthetic"]["images"]["hires"].copy()
    adata.obsm["spatial"] = adata.obsm["spatial"] * 0.25
    image[:9] = image[:, :7] = GLASS
    return adata, image


def pixels(form, **options) -> np.ndarray:
    return np.asarray(open_image(form, **options).levels[0].pixels)


def features(section, form) -> np.ndarray:
    table = snrmix.pp.embed_histology(section[0], image=form, encoder="colour", scales=2.0, copy=True)
    return table.obsm["X_histology"].astype(float)


@pytest.fixture(scope="module")
def expected(section):
    return features(section, section[1])


# Ways to store it. Each takes the picture and a path without suffix, and returns what is passed as image=.


def clear(image: np.ndarray) -> np.ndarray:
    """Which pixels are white: those may be transparent instead, and of any colour."""
    return (image == GLASS).all(2)


def rgba(image: np.ndarray, hidden: int = 0) -> np.ndarray:
    opacity = np.where(clear(image), 0, 255).astype(np.uint8)
    return np.dstack([np.where(opacity[..., None] > 0, image, hidden).astype(np.uint8), opacity])


def pyramid(image: np.ndarray) -> list[np.ndarray]:
    half = np.asarray(Image.fromarray(image).resize((image.shape[1] // 2, image.shape[0] // 2), Image.Resampling.BOX))
    return [image, half]


def data_array(image, dims="yxc", **coords):
    return xr.DataArray(image.transpose(["yxc".index(d) for d in dims]), dims=tuple(dims), coords=coords)


def zarr_array(image, path):
    return zarr.create_array(store={}, data=image, chunks=(64, 64, 3))


def h5_array(image, path):
    return h5py.File(f"{path}.h5", "w", driver="core", backing_store=False).create_dataset(
        "image", data=image, chunks=(64, 64, 3)
    )


def tree(image, path):
    levels = pyramid(image)
    return xr.DataTree.from_dict(
        {f"scale{i}": xr.Dataset({"image": data_array(level, "cyx")}) for i, level in enumerate(levels)}
    )


def spatialdata_image(image, path):
    from spatialdata.models import Image2DModel

    return Image2DModel.parse(
        image.transpose(2, 0, 1), dims=("c", "y", "x"), scale_factors=[2], c_coords=["r", "g", "b"]
    )


OBJECTS = {
    **{
        str(np.dtype(t)): (lambda i, p, t=t: i.astype(t))
        for t in ("i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8", ">u2")
    },
    "float16 to 1": lambda i, p: (i / 255).astype(np.float16),
    "float32 to 1": lambda i, p: (i / 255).astype(np.float32),
    "10 bits in 16": lambda i, p: i.astype(np.uint16) << 2,
    "12 bits in 16": lambda i, p: i.astype(np.uint16) << 4,
    "12 bits, full range": lambda i, p: np.rint(i * (4095 / 255)).astype(np.uint16),
    "14 bits in 16": lambda i, p: i.astype(np.uint16) << 6,
    "16 bits": lambda i, p: i.astype(np.uint16) * 257,
    "15 bits, signed": lambda i, p: i.astype(np.int16) << 7,
    "32 bits": lambda i, p: i.astype(np.uint32) << 24,
    "12 bits of dask": lambda i, p: da.from_array(i.astype(np.uint16) << 4, chunks=(70, 64, 3)),
    "read only": lambda i, p: np.frombuffer(i.tobytes(), np.uint8).reshape(i.shape),
    "Fortran order": lambda i, p: np.asfortranarray(i),
    "channels first": lambda i, p: i.transpose(2, 0, 1),
    "channels first of dask": lambda i, p: da.from_array(i.transpose(2, 0, 1), chunks=(1, 64, 64)),
    "one plane of four axes": lambda i, p: i[None],
    "zarr": zarr_array,
    "h5py": h5_array,
    "list of levels": lambda i, p: pyramid(i),
    "list of levels, coarsest first": lambda i, p: pyramid(i)[::-1],
    "list of DataArrays": lambda i, p: [data_array(level, "cyx") for level in pyramid(i)],
    "DataTree": tree,
    "Dataset": lambda i, p: xr.Dataset({"image": data_array(i)}),
    "image of SpatialData": spatialdata_image,
    "DataArray x, c, y": lambda i, p: data_array(i, "xcy"),
    "DataArray Y, X, S": lambda i, p: xr.DataArray(i, dims=("Y", "X", "S")),
    "DataArray with one z": lambda i, p: xr.DataArray(i[:, :, None], dims=("y", "x", "z", "channels")),
    "DataArray b, g, r": lambda i, p: data_array(i[..., ::-1], c=["b", "g", "r"]),
    "DataArray alpha, red, green, blue": lambda i, p: data_array(
        rgba(i, 9)[..., [3, 0, 1, 2]], c=["alpha", "red", "green", "blue"]
    ),
    "Pillow RGB": lambda i, p: Image.fromarray(i),
    "Pillow RGBA": lambda i, p: Image.fromarray(rgba(i)),
    "Pillow RGBa": lambda i, p: Image.fromarray(rgba(i)).convert("RGBa"),
    "Pillow CMYK": lambda i, p: Image.fromarray(i).convert("CMYK"),
    "dict by library": lambda i, p: {"synthetic": tree(i, p)},
    "transparent": lambda i, p: rgba(i),
    "transparent, channels first": lambda i, p: rgba(i, 99).transpose(2, 0, 1),
    "transparent, 16 bits": lambda i, p: rgba(i).astype(np.uint16) * 257,
    "transparent, 12 bits": lambda i, p: rgba(i, 70).astype(np.uint16) << 4,
    "transparent, to 1": lambda i, p: (rgba(i) / 255).astype(np.float32),
    "transparent, mask of 0 and 1": lambda i, p: np.dstack([rgba(i)[..., :3], rgba(i)[..., 3] // 255]),
    "transparent dask": lambda i, p: da.from_array(rgba(i), chunks=(50, 50, 2)),
    "transparent DataArray": lambda i, p: data_array(rgba(i), "cyx"),
    "missing": lambda i, p: np.where(clear(i)[..., None], np.nan, i),
}


def pillow(suffix, convert=lambda image: Image.fromarray(image), **options):
    def write(image, path):
        convert(image).save(f"{path}.{suffix}", **options)
        return f"{path}.{suffix}"

    return write


def tiff(change=lambda image: image, suffix="tif", **options):
    def write(image, path):
        tifffile.imwrite(f"{path}.{suffix}", change(image), **{"photometric": "rgb", **options})
        return f"{path}.{suffix}"

    return write


def tags(image, path):
    """Uncompressed TIFF with tags that tifffile does not write by itself: inks of CMYK."""
    return pillow("tif", lambda i: Image.fromarray(i).convert("CMYK"))(image, path)


def associated(image, path):
    seen = rgba(image)
    tifffile.imwrite(f"{path}.tif", seen, photometric="rgb", extrasamples=["assocalpha"])
    return f"{path}.tif"


def ome_zarr(image, path):
    from ome_zarr.writer import write_multiscale

    group = zarr.open_group(f"{path}.ome.zarr", mode="w")
    write_multiscale([level.transpose(2, 0, 1) for level in pyramid(image)], group, axes="cyx")
    return f"{path}.ome.zarr"


def big_pyramid(image, path):
    with tifffile.TiffWriter(f"{path}.btf", bigtiff=True) as file:
        file.write(image, subifds=1, tile=(64, 64), photometric="rgb", compression="zlib")
        file.write(pyramid(image)[1], subfiletype=1, tile=(64, 64), photometric="rgb", compression="zlib")
    return f"{path}.btf"


FILES = {
    "PNG": pillow("png"),
    "PNG, transparent": pillow("png", lambda i: Image.fromarray(rgba(i))),
    "PNG, one colour transparent": lambda i, p: pillow(
        "png", lambda i: Image.fromarray(np.where(clear(i)[..., None], np.uint8([1, 2, 3]), i)), transparency=(1, 2, 3)
    )(i, p),
    "BMP, bottom up": pillow("bmp"),
    "WebP": pillow("webp", lossless=True),
    "WebP, transparent": pillow("webp", lambda i: Image.fromarray(rgba(i)), lossless=True, exact=True),
    "JPEG 2000": pillow("jp2"),
    "PPM": pillow("ppm"),
    "TGA": pillow("tga"),
    "TIFF of Pillow": pillow("tif"),
    "PNG called tif": lambda i, p: pillow("png")(i, p) and _renamed(f"{p}.png", f"{p}.tif"),
    "TIFF of another name": lambda i, p: tiff()(i, p) and _renamed(f"{p}.tif", f"{p}.qptiff"),
    "TIFF": tiff(),
    "TIFF, big-endian": tiff(byteorder=">"),
    "TIFF, tiles": tiff(tile=(64, 64), compression="zlib", predictor=True),
    "TIFF, LZW": tiff(compression="lzw"),
    "TIFF, JPEG 2000": tiff(compression="jpeg2000"),
    "TIFF, planes": tiff(lambda i: i.transpose(2, 0, 1), planarconfig="separate"),
    "TIFF, 16 bits": tiff(lambda i: i.astype(np.uint16) * 257),
    "TIFF, 12 of 16 bits": tiff(lambda i: i.astype(np.uint16) << 4),
    "TIFF, floats to 1": tiff(lambda i: (i / 255).astype(np.float32)),
    "TIFF, floats to 255": tiff(lambda i: i.astype(np.float32)),
    "TIFF, transparent": tiff(rgba, extrasamples=["unassalpha"]),
    "TIFF, transparent, 16 bits": tiff(lambda i: rgba(i).astype(np.uint16) * 257, extrasamples=["unassalpha"]),
    "TIFF, transparent planes": tiff(lambda i: rgba(i).transpose(2, 0, 1), planarconfig="separate"),
    "TIFF, unspecified fourth channel": tiff(rgba, extrasamples=["unspecified"]),
    "TIFF, associated": associated,
    "TIFF, CMYK": tags,
    "BigTIFF, pyramid": big_pyramid,
    "OME-TIFF, planes": tiff(
        lambda i: i.transpose(2, 0, 1), suffix="ome.tif", photometric="minisblack", metadata={"axes": "CYX"}
    ),
    "OME-Zarr": ome_zarr,
}


def _renamed(path, other):
    import os

    os.rename(path, other)
    return other


@pytest.mark.parametrize("form", [*OBJECTS, *FILES])
def test_exact_forms(section, expected, tmp_path, form):
    """Bit for bit the same pixels; so the same features."""
    image = section[1]
    stored = {**OBJECTS, **FILES}[form](image, tmp_path / "section")
    if not isinstance(stored, dict):
        np.testing.assert_array_equal(pixels(stored), image)
    np.testing.assert_array_equal(features(section, stored), expected)


# Forms that lose something: how far pixels are off on the mean, and features at most.
LOSSY = {
    "JPEG": (pillow("jpg", quality=95, subsampling=0), 3, 0.1),
    "JPEG, coarse colours": (pillow("jpg", quality=85), 6, 0.2),
    "JPEG, CMYK": (pillow("jpg", lambda i: Image.fromarray(i).convert("CMYK"), quality=95), 2, 0.1),
    "AVIF": (pillow("avif", quality=95), 3, 0.2),
    "Pillow YCbCr": (lambda i, p: Image.fromarray(i).convert("YCbCr"), 1, 0.02),
    "Pillow HSV": (lambda i, p: Image.fromarray(i).convert("HSV"), 2, 0.05),
    "TIFF, YCbCr": (pillow("tif", lambda i: Image.fromarray(i).convert("YCbCr")), 1, 0.02),
    "TIFF, JPEG": (tiff(tile=(64, 64), compression="jpeg", compressionargs={"level": 95}), 4, 0.2),
    "TIFF, palette": (pillow("tif", lambda i: Image.fromarray(i).quantize(256)), 1, 0.1),
    "PNG, palette": (pillow("png", lambda i: Image.fromarray(i).quantize(256)), 1, 0.1),
    "GIF": (pillow("gif", lambda i: Image.fromarray(i).quantize(256)), 1, 0.1),
    "PNG, transparent palette": (pillow("png", lambda i: Image.fromarray(rgba(i)).quantize(256)), 3, 0.2),
}


@pytest.mark.parametrize("form", LOSSY)
def test_lossy_forms(section, expected, tmp_path, form):
    write, mean, most = LOSSY[form]
    stored = write(section[1], tmp_path / "section")
    assert np.abs(pixels(stored).astype(int) - section[1]).mean() < mean
    assert np.abs(features(section, stored) - expected).max() < most


GREY = {
    "TIFF, 0 is black": tiff(photometric="minisblack"),
    "TIFF, 0 is white": tiff(lambda g: 255 - g, photometric="miniswhite"),
    "TIFF, 0 is white, 16 bits": tiff(lambda g: 65535 - g.astype(np.uint16) * 257, photometric="miniswhite"),
    "TIFF, opaque": pillow(
        "tif", lambda g: Image.merge("LA", [Image.fromarray(g), Image.new("L", g.shape[::-1], 255)])
    ),
    "PNG": pillow("png"),
    "PNG, 16 bits": pillow("png", lambda g: Image.fromarray(g.astype(np.uint16) * 257)),
    "PNG, opaque": pillow("png", lambda g: Image.merge("LA", [Image.fromarray(g), Image.new("L", g.shape[::-1], 255)])),
    "Pillow I": lambda g, p: Image.fromarray(g.astype(np.int32) * 257),
    "Pillow F": lambda g, p: Image.fromarray(g.astype(np.float32)),
    "y, x": lambda g, p: g,
    "1, y, x": lambda g, p: g[None],
    "12 bits": lambda g, p: g.astype(np.uint16) << 4,
    "DataArray x, y": lambda g, p: xr.DataArray(g.T, dims=("x", "y")),
}


@pytest.mark.parametrize("form", GREY)
def test_grey_forms(section, tmp_path, form):
    grey = section[1][..., 1]
    np.testing.assert_array_equal(pixels(GREY[form](grey, tmp_path / "grey")), np.dstack([grey] * 3))


def test_one_bit(tmp_path):
    ink = np.indices((40, 70)).sum(0) % 3 > 0
    Image.fromarray(ink).save(tmp_path / "ink.tif")
    Image.fromarray(ink).save(tmp_path / "ink.png")
    tifffile.imwrite(tmp_path / "white.tif", ~ink, photometric="miniswhite")
    for name in ("ink.tif", "ink.png", "white.tif"):
        np.testing.assert_array_equal(pixels(tmp_path / name), np.repeat(255 * ink[..., None], 3, 2))


@pytest.fixture
def packed(section, tmp_path, monkeypatch):
    """A TIFF of 12 bits, two values in three bytes, whose rows begin at whole bytes; what unpacks it is ours."""

    def encode(data, bits, runlen=0, **options):
        values = np.asarray(data).reshape(-1, runlen)
        places = (values[..., None] >> np.arange(bits - 1, -1, -1)) & 1
        return np.packbits(places.reshape(len(values), -1).astype(np.uint8), axis=1).tobytes()

    def decode(data, dtype, bits, runlen=0, **options):
        rows = np.frombuffer(data, np.uint8).reshape(-1, -(-runlen * bits // 8))
        places = np.unpackbits(rows, axis=1)[:, : runlen * bits].reshape(len(rows), runlen, bits)
        return (places * (1 << np.arange(bits - 1, -1, -1))).sum(2).astype(np.uint16).ravel()

    monkeypatch.setattr("tifffile.tifffile.imagecodecs.packints_encode", encode)
    monkeypatch.setattr("tifffile.tifffile.imagecodecs.packints_decode", decode)
    return tiff(lambda i: (i >> 1).astype(np.uint16) << 4, bitspersample=12)(section[1], tmp_path / "section")


def test_twelve_bits_packed_have_the_white_that_the_file_states(section, packed, caplog):
    with caplog.at_level("INFO", logger="snrmix"):
        np.testing.assert_array_equal(pixels(packed), section[1] >> 1)  # by its values it were 11 bits
    assert not caplog.text


# Orientation

TURNS = {
    1: lambda a: a, 2: np.fliplr, 3: lambda a: np.rot90(a, 2), 4: np.flipud, 5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, 1), 7: lambda a: np.rot90(a, 2).transpose(1, 0, 2), 8: lambda a: np.rot90(a, -1),
}  # fmt: skip


@pytest.mark.parametrize("orientation", TURNS)
@pytest.mark.parametrize("suffix", ["png", "tif", "jpg", "webp", "pyramid.tif"])
def test_a_turned_picture_is_read_as_it_is_displayed(section, tmp_path, orientation, suffix, caplog):
    """Stored turned, with the tag that turns it back."""
    image, path = section[1], tmp_path / f"turned.{suffix}"
    stored = np.ascontiguousarray(TURNS[orientation](image))
    if suffix == "pyramid.tif":
        with tifffile.TiffWriter(path) as file:
            options = {"tile": (64, 64), "photometric": "rgb"}
            file.write(stored, subifds=1, extratags=[(274, 3, 1, orientation, True)], **options)
            file.write(pyramid(stored)[1], subfiletype=1, **options)
    elif suffix == "tif":
        tifffile.imwrite(path, stored, photometric="rgb", extratags=[(274, 3, 1, orientation, True)])
    else:
        exif = Image.Exif()
        exif[274] = orientation
        options = (
            {"quality": 95, "subsampling": 0} if suffix == "jpg" else {"lossless": True} if suffix == "webp" else {}
        )
        Image.fromarray(stored).save(path, exif=exif, **options)
    with caplog.at_level("INFO", logger="snrmix"):
        levels = open_image(path).levels
    assert ("read as it is displayed" in caplog.text) == (orientation > 1)
    most = 40 if suffix == "jpg" else 0
    assert np.abs(np.asarray(levels[0].pixels).astype(int) - image).max() <= most
    if suffix == "pyramid.tif":
        assert levels[1].pixels.shape == (image.shape[0] // 2, image.shape[1] // 2, 3)
        np.testing.assert_allclose(levels[1].affine, [[0.5, 0, 0], [0, 0.5, 0]], rtol=0.01)


def test_pillow_object_that_is_turned(section, tmp_path):
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(np.ascontiguousarray(np.rot90(section[1]))).save(tmp_path / "turned.png", exif=exif)
    np.testing.assert_array_equal(pixels(Image.open(tmp_path / "turned.png")), section[1])


# Opacity


DISPLAY_P3 = np.array([[0.51512, 0.29198, 0.1571], [0.2412, 0.69225, 0.06657], [-0.00105, 0.04189, 0.78407]])
SRGB = np.array([[0.43607, 0.38515, 0.14307], [0.22249, 0.71687, 0.06061], [0.01392, 0.09708, 0.7141]])


def colour_profile(primaries: np.ndarray, gamma: float = 2.2, space: bytes = b"RGB ") -> bytes:
    """A profile of ICC version 2 with primaries as columns of XYZ, and a power law."""

    def numbers(*values):
        return b"".join(struct.pack(">i", round(65536 * value)) for value in values)

    name = b"of a camera\0"
    curve = b"curv" + bytes(4) + struct.pack(">IHH", 1, int(256 * gamma), 0)
    tags = {b"desc": b"desc" + bytes(4) + struct.pack(">I", len(name)) + name + bytes(78), b"cprt": b"text" + bytes(8)}
    white = (0.9642, 1, 0.8249)
    for key, values in zip((b"wtpt", b"rXYZ", b"gXYZ", b"bXYZ"), (white, *primaries.T), strict=True):
        tags[key] = b"XYZ " + bytes(4) + numbers(*values)
    tags |= dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve)
    start, table, body = 132 + 12 * len(tags), struct.pack(">I", len(tags)), b""
    for key, value in tags.items():
        value += bytes(-len(value) % 4)
        table += key + struct.pack(">II", start + len(body), len(value))
        body += value
    size = struct.pack(">I", start + len(body))
    head = size + bytes(4) + bytes([2, 16, 0, 0]) + b"mntr" + space + b"XYZ " + bytes(12) + b"acsp" + bytes(28)
    return head + numbers(*white) + bytes(48) + table + body


def from_p3(image: np.ndarray) -> np.ndarray:
    """The same colours as numbers of sRGB, by the matrices of both."""
    light = ((image / 255) ** 2.2 @ DISPLAY_P3.T @ np.linalg.inv(SRGB).T).clip(0, 1)
    return 255 * np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)


@pytest.mark.parametrize("form", ["RGB", "with opacity", "palette"])
def test_colours_of_an_embedded_profile_become_those_of_screens(section, tmp_path, form):
    image = section[1][:200, :300]
    stored = Image.fromarray(image)
    if form == "with opacity":
        stored.putalpha(255)
    elif form == "palette":
        stored = stored.quantize(200)
        image = np.asarray(stored.convert("RGB"))
    stored.save(tmp_path / "a.png", icc_profile=colour_profile(DISPLAY_P3))
    got = pixels(tmp_path / "a.png").astype(float)
    assert np.abs(got - from_p3(image)).max() <= 1 and np.abs(got - image).mean() > 2


@pytest.mark.parametrize("form", ["sRGB", "broken", "of other colours", "none"])
def test_profiles_that_say_nothing_change_nothing(section, tmp_path, form):
    image = section[1][:200, :300]
    profile = {
        "sRGB": ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes(),
        "broken": b"nothing of the kind",
        "of other colours": colour_profile(DISPLAY_P3, space=b"CMYK"),
        "none": None,
    }[form]
    Image.fromarray(image).save(tmp_path / "a.png", icc_profile=profile)
    np.testing.assert_array_equal(pixels(tmp_path / "a.png"), image)


def test_half_transparent_colours_are_mixed_with_white(tmp_path):
    colour, opacity = np.uint8([200, 100, 40]), np.zeros((40, 40), np.uint8)
    opacity[:30], opacity[:20], opacity[:4] = 51, 255, 0
    image = np.dstack([np.broadcast_to(colour, (40, 40, 3)), opacity]).astype(np.uint8)
    mixed = np.rint(colour * 0.2 + 255 * 0.8)
    for form in (image, image / 255, da.from_array(image), Image.fromarray(image)):
        got = pixels(form)
        assert (
            (got[:4] == 255).all() and (got[10] == colour).all() and (got[25] == mixed).all() and (got[35] == 255).all()
        )
    premultiplied = image.copy()
    premultiplied[..., :3] = np.rint(image[..., :3] * (opacity[..., None] / 255))
    tifffile.imwrite(tmp_path / "associated.tif", premultiplied, photometric="rgb", extrasamples=["assocalpha"])
    got = pixels(tmp_path / "associated.tif")
    assert (got[:4] == 255).all() and (got[10] == colour).all() and np.abs(got[25] - mixed).max() <= 1


def test_colours_that_are_transparent_everywhere_are_used_with_a_warning(section, caplog):
    image = np.dstack([section[1], np.zeros(section[1].shape[:2], np.uint8)])
    np.testing.assert_array_equal(pixels(image), section[1])
    assert "is transparent everywhere, though it has colours" in caplog.text
    caplog.clear()
    assert (pixels(np.zeros((50, 50, 4), np.uint8)) == 255).all()  # glass alone
    assert not caplog.text


def test_tiles_that_were_not_scanned_are_white(section, tmp_path):
    image = np.ascontiguousarray(section[1][:128, :192])
    path = tmp_path / "sparse.tif"
    with tifffile.TiffWriter(path) as file:
        tiles = [image[y : y + 64, x : x + 64] for y in (0, 64) for x in (0, 64, 128)]
        file.write(
            iter([tiles[0], None, *tiles[2:]]), shape=image.shape, dtype="uint8", tile=(64, 64), photometric="rgb"
        )
    white = image.copy()
    white[:64, 64:128] = 255
    np.testing.assert_array_equal(pixels(path), white)


# What is said, and what is refused


def test_the_depth_that_was_assumed_is_said(section, caplog):
    with caplog.at_level("INFO", logger="snrmix"):
        open_image(section[1].astype(np.uint16) << 4)
    assert "image has uint16 values up to 4080: read as 12 bits, so that white is 4095" in caplog.text
    caplog.clear()
    with caplog.at_level("INFO", logger="snrmix"):
        open_image(section[1].astype(np.uint16) * 257)
    assert not caplog.text


def lab(image, path):
    tifffile.imwrite(f"{path}.tif", image, photometric="cielab")
    return f"{path}.tif"


REFUSED = {
    "CIELAB": (lab, ValueError, "has colours of the kind CIELAB; convert it to RGB"),
    "Pillow LAB": (lambda i, p: Image.new("LAB", (50, 50)), ValueError, "is in CIELAB; convert it to RGB"),
    "fax": (
        pillow("tif", lambda i: Image.fromarray(i[..., 0] > 99), compression="group4"),
        ValueError, "is compressed as CCITTFAX4: pip install imagecodecs, or .*, or convert it",
    ),
    "raw sensor": (
        lambda i, p: tiff(lambda i: i[..., 0], photometric="cfa")(i, p), ValueError, "has colours of the kind CFA",
    ),
    "subsampled YCbCr": (
        lambda i, p: tiff(photometric="ycbcr", extratags=[(529, 5, 3, (1, 3, 1, 3, 1, 3), True)])(i, p),
        ValueError, "YCbCr colours that are subsampled, or not those of JPEG; convert it to RGB",
    ),
    "inks": (
        lambda i, p: tiff(rgba, photometric="separated", extratags=[(332, 3, 1, 2, True)])(i, p),
        ValueError, "inks that are not plain CMYK",
    ),
    "several planes": (
        lambda i, p: tiff(lambda i: np.stack([i[..., 0]] * 2), photometric="minisblack")(i, p),
        ValueError, "more than one plane along",
    ),
    "four channels": (
        lambda i, p: np.dstack([i, i[..., :1]]), ValueError, r"last is no opacity: .*pass them alone: image\[..., :3\]",
    ),
    "four named channels": (
        lambda i, p: data_array(np.dstack([i, i[..., :1]]), c=["DAPI", "18S", "CD45", "aSMA"]),
        ValueError, r"4\) \('DAPI', '18S', 'CD45', 'aSMA'\); expected .*1, 3 or 4 channels",
    ),
    "two channels": (lambda i, p: i[..., :2], ValueError, r"2\); expected .*1, 3 or 4 channels"),
    "two pictures": (lambda i, p: [i, i], ValueError, r"two levels of .*pixels; .*image=\{library: image\}"),
    "no pyramid": (lambda i, p: [i, i[:60]], ValueError, "is no pyramid: its levels have shapes"),
    "masked": (lambda i, p: np.ma.masked_equal(i, 255), ValueError, r"masked array; .*image.filled\(255\)"),
    "empty": (lambda i, p: i[:0], ValueError, "must have pixels"),
    "complex": (lambda i, p: i.astype(complex), ValueError, "has dtype complex128"),
    "normalised": (lambda i, p: (i - 128.0) / 64, ValueError, "has values from .* to 1.984; expected 0..1 or 0..255"),
    "24 bits": (lambda i, p: i.astype(np.int32) << 16, ValueError, "expected .*0..65,535 for integers"),
    "not a number": (lambda i, p: np.full((50, 50, 3), np.nan), ValueError, "has values from nan"),
    "numbers": (lambda i, p: [1, 2], TypeError, "must be a path, an array .*a pyramid of these or a Pillow image, not list"),
    "Dataset of tables": (lambda i, p: xr.Dataset({"a": ("y", [1])}), ValueError, "must have one image a level"),
}  # fmt: skip


@pytest.mark.parametrize("form", REFUSED)
def test_refused_by_name(section, tmp_path, form):
    make, error, says = REFUSED[form]
    with pytest.raises(error, match=says):
        features(section, make(section[1], tmp_path / "section"))


def test_codec_that_is_missing_is_named(packed, monkeypatch):
    """Without imagecodecs, 12 bits cannot be unpacked; the compression alone does not tell."""

    def missing(*args, **options):
        raise ValueError("requires the 'imagecodecs' package")

    monkeypatch.setattr("tifffile.tifffile.imagecodecs.packints_decode", missing)
    with pytest.raises(ValueError, match="cannot be decoded .*12 bits, RGB.*pip install imagecodecs"):
        open_image(packed)


def test_home_is_expanded(section, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    Image.fromarray(section[1]).save(tmp_path / "section.png")
    np.testing.assert_array_equal(pixels("~/section.png"), section[1])


# Laziness, and what is known of an image


@pytest.mark.parametrize("stored", ["12 bits", "transparent"])
def test_pieces_are_converted_on_reading(section, stored):
    read = []

    def block(block_info=None):
        (top, bottom), (left, right), _ = block_info[None]["array-location"]
        read.append((top, left))
        grey = np.full((bottom - top, right - left, 3), 200, np.uint16)
        return grey << 4 if stored == "12 bits" else np.dstack([grey, grey[..., :1] * 0 + 255]).astype(np.uint8)

    depth, dtype = (3, np.uint16) if stored == "12 bits" else (4, np.uint8)
    lazy = da.map_blocks(
        block, chunks=((512,) * 40, (512,) * 40, (depth,)), dtype=dtype, meta=np.empty((0, 0, 0), dtype)
    )
    level = open_image(lazy).levels[0]
    assert hasattr(level.pixels, "dask") and len(read) <= 64  # of 1,600, to learn what white is
    read.clear()
    assert (np.asarray(level.pixels[600:700, 600:700]) == 200).all()
    assert len(read) == 1


def test_record_of_an_image(section, tmp_path):
    image = open_image(big_pyramid(section[1], tmp_path / "section"))
    height, width = section[1].shape[:2]
    assert image.size == (width, height)
    record = image.record(np.array([18.4, 36.8, 300]), 128, um_per_unit=6.25)
    assert record.pop("level").tolist() == [0, 0, 1]
    assert record == {
        "name": str(tmp_path / "section.btf"), "width": width, "height": height, "levels": 2, "um_per_px": 6.25,
    }  # fmt: skip
