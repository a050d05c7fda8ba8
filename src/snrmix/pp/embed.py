from __future__ import annotations

from snrmix.embedding import DEFAULT_SCALES, choose_device, compute_embedding, read_cache, write_cache
from snrmix.sites import read_sites, read_table


def embed_histology(
    data,
    *,
    encoder="efficientnet_lite0",
    scales=DEFAULT_SCALES,
    image=None,
    image_key: str | None = None,
    um_per_px: float | None = None,
    table_key: str | None = None,
    library_key: str | None = None,
    accelerator: str = "auto",
    copy: bool = False,
):
    """Embed the histology around every site into ``obsm["X_histology"]``.

    A patch per scale is cut around each site, resized with antialiasing to the encoder's size, encoded, and joined by
    12 colour statistics per scale. `snrmix.tl.impute` does this itself and reuses the result.

    Parameters
    ----------
    data
        AnnData or SpatialData.
    encoder
        ``"efficientnet_lite0"`` (ImageNet weights, offline), ``"colour"`` (colour statistics only), a
        ``torch.nn.Module`` or a callable from float RGB in 0..1, shape (b, 3, 128, 128), to features (b, d), or a
        `snrmix.Encoder`.
    scales
        Sides of the patches in lattice pitches.
    image, image_key, um_per_px, table_key, library_key
        As in `snrmix.tl.impute`.
    accelerator
        ``"auto"``, ``"cpu"``, ``"gpu"`` or ``"mps"``.
    copy
        Return a modified copy of the table and leave ``data`` alone.

    Returns
    -------
    ``None``, or the modified copy. Sets

    ``obsm["X_histology"]``
        float16, shape (n, scales x (encoder features + 12)).
    ``uns["X_histology"]``
        Encoder, scales, patch sides in units of ``obsm["spatial"]``, and what recognises image and sites.

    Raises
    ------
    KeyError, ValueError, TypeError
        When coordinates or images are missing or do not fit; ``data`` is then unchanged.
    """
    sites = read_sites(
        data, table_key=table_key, library_key=library_key, image=image, image_key=image_key, um_per_px=um_per_px
    )
    table = read_table(data, table_key)
    embedding = compute_embedding(sites, encoder, scales, choose_device(accelerator), read_cache(table, sites))
    table = table.copy() if copy else table
    write_cache(table, sites, embedding)
    return table if copy else None
