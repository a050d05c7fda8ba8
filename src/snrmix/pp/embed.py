from __future__ import annotations

from collections.abc import Mapping

from snrmix import _checks
from snrmix._globals import settled
from snrmix._progress import displayed, stage
from snrmix.data.embedding import plan_embedding
from snrmix.data.embedding_cache import check_cache_free, read_cache, write_cache
from snrmix.data.scales import check_scales
from snrmix.data.sites import read_sites
from snrmix.data.table import read_table
from snrmix.images.encoders import resolve_encoder
from snrmix.plan.cost import Run
from snrmix.plan.estimate import announce
from snrmix.plan.options import choose_device


@settled()
@displayed()
def embed_histology(
    data,
    *,
    encoder="efficientnet_lite0",
    scales="auto",
    image=None,
    image_key: str | None = None,
    um_per_px: float | Mapping[str, float] | None = None,
    table_key: str | None = None,
    library_key: str | None = None,
    accelerator: str = "auto",
    copy: bool = False,
):
    """Embed the histology around every site into ``obsm["X_histology"]``.

    A patch per scale is cut around each site, resized with antialiasing to the encoder's size, encoded, and joined by
    22 statistics of colour and stain texture per scale. `snrmix.tl.impute` does this itself and reuses the result. Where sites are so dense that
    it saves half of the patches or more (Visium HD), patches are embedded on a grid instead, a quarter of their side apart,
    and the features of a site are interpolated between the four around it.

    Parameters
    ----------
    data
        AnnData or SpatialData.
    encoder
        ``"efficientnet_lite0"`` (ImageNet weights, offline), ``"colour"`` (colour and texture, no network),
        ``"timm:MODEL"``, ``"hf-hub:ORG/MODEL"``, either with ``"@PATH"`` of weights on this machine, the path of a folder
        with a timm model or of a TorchScript file, a ``torch.nn.Module`` or a callable from float RGB in 0..1, shape
        (b, 3, 128, 128), to features (b, d), or a `snrmix.Encoder`.
    scales
        Sides of the patches in lattice pitches. ``"auto"``: 1.15, 2.3 and 4.6; 0.6 as well where the image has 19 pixels or
        more along that; and 0.3 where it has 40 or more. Of several libraries all get the same, which every image holds.
        With ``finetune`` these are 1.15, 2.3 and 4.6.
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
        float16, shape (n, scales x (encoder features + 22)).
    ``uns["X_histology"]``
        Encoder and what ran it, scales, patch sides and spacing of the grid (0 where every site has its own patch) in units of
        ``obsm["spatial"]``, and what recognises image and sites.

    Raises
    ------
    KeyError, ValueError, TypeError
        When coordinates or images are missing or do not fit, or something else has that name; ``data`` is then unchanged.

    Examples
    --------
    >>> snrmix.pp.embed_histology(adata, encoder="colour")
    >>> adata.obsm["X_histology"].shape[0] == adata.n_obs
    True
    """
    table = read_table(data, table_key, needs_genes=False)
    _checks.flag("copy", copy)
    check_cache_free(table)
    encoder, scales, device = resolve_encoder(encoder), check_scales(scales), choose_device(accelerator)
    with stage("opening the image"):
        sites = read_sites(
            data, table_key=table_key, library_key=library_key, image=image, image_key=image_key, um_per_px=um_per_px
        )
        plan = plan_embedding(sites, encoder, scales, device, read_cache(table, sites))
    announce(Run.of_embedding(plan))
    embedding = plan.embed()
    table = table.copy() if copy else table
    write_cache(table, sites, embedding)
    return table if copy else None
