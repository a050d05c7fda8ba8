"""An object with added sites: everything that is stored by site grows with it."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from snrmix._log import logger
from snrmix._names import listing
from snrmix.data.embedding_cache import CACHE_KEY
from snrmix.data.results import Result
from snrmix.data.sites import Sites


@dataclass(frozen=True)
class Added:
    """New sites, sorted by library: positions, shape (m, 2), index into the libraries, shape (m,), and names."""

    positions: np.ndarray
    library: np.ndarray
    names: pd.Index

    def __len__(self) -> int:
        return len(self.names)


def grow(data, table: AnnData, sites: Sites, added: Added, library_key: str | None) -> AnnData:
    """The table with more rows; results that do not know these are left out."""
    m, outdated = len(added), stale(table)
    names = table.obs_names.append(added.names)
    obsm = {
        key: longer(table.obsm[key], m, np.nan, names)
        for key in table.obsm.keys()
        if ("obsm", key) not in outdated and key != "spatial"
    }
    if "spatial" in table.obsm:
        obsm["spatial"] = np.concatenate([np.asarray(table.obsm["spatial"]), _stored_positions(table, sites, added)])
    uns = {key: value for key, value in table.uns.items() if ("uns", key) not in outdated and not _is_graph(value)}
    grown = AnnData(
        longer(table.X, m, 0, names) if table.X is not None else None,
        obs=_longer_obs(data, table, sites, added, library_key, names),
        var=table.var.drop(columns=[key for part, key in outdated if part == "var"]),
        uns=copy.deepcopy(uns),
        obsm=obsm,
        varm={key: copy.copy(table.varm[key]) for key in table.varm.keys() if ("varm", key) not in outdated},
        varp={key: table.varp[key].copy() for key in table.varp.keys()},
        layers={
            key: longer(table.layers[key], m, _fill_of(table.layers[key]), names)
            for key in table.layers.keys()
            if key is not None and ("layers", key) not in outdated
        },
    )
    grown.obs = grown.obs.drop(columns=[key for part, key in outdated if part == "obs"])
    if table.raw is not None:
        grown.raw = AnnData(longer(table.raw.X, m, 0, names), obs=pd.DataFrame(index=names), var=table.raw.var.copy())
    dropped = [*table.obsp.keys(), *(key for part, key in outdated if part in ("obsm", "layers"))]
    if dropped:
        logger.info("left out, because they do not know the added sites: %s.", listing(sorted(dropped)))
    return grown


def stale(table: AnnData) -> set[tuple[str, str]]:
    """What the table has of an embedding and of results of `snrmix.tl.impute`: parts, and names in them."""
    results = [result for result in (Result(table, key) for key in table.uns) if result.exists]
    taken = {place for result in results for place in result.taken()}
    return taken | {(part, CACHE_KEY) for part in ("obsm", "uns") if CACHE_KEY in getattr(table, part)}


def _fill_of(layer) -> float:
    """What a layer has at added sites: 0, as counts have, or NaN where 0 would be a value like any other."""
    if not isinstance(layer, np.ndarray) or layer.dtype.kind != "f":
        return 0
    return 0 if np.array_equal(layer, np.rint(layer), equal_nan=True) else np.nan


def _is_graph(value) -> bool:
    return isinstance(value, Mapping) and "connectivities_key" in value


def longer(values, m: int, fill, names: pd.Index):
    """Rows of ``fill`` (of zeros, where sparse) after those of an array, of the same kind."""
    if isinstance(values, pd.DataFrame):
        return values.reindex(names)
    if sparse.issparse(values):
        empty = type(values)((m, values.shape[1]), dtype=values.dtype)
        return sparse.vstack([values, empty], format=values.format)
    dtype = np.result_type(values.dtype, np.float32) if fill != 0 and values.dtype.kind in "biu" else values.dtype
    if hasattr(values, "dask"):
        import dask.array as da

        return da.concatenate([values.astype(dtype), da.full((m, *values.shape[1:]), fill, dtype=dtype)])
    return np.concatenate([np.asarray(values, dtype), np.full((m, *values.shape[1:]), fill, dtype)])


def _longer_obs(data, table, sites: Sites, added: Added, library_key: str | None, names: pd.Index) -> pd.DataFrame:
    """What is known of the added sites: their library, and that they are on tissue."""
    attrs = table.uns.get("spatialdata_attrs", {}) if data is not table else {}
    of_library = {library_key, attrs.get("region_key"), "library_id"}
    like = sites.order[np.searchsorted(sites.library, added.library)]  # a row of the same library
    columns = {}
    for name, column in table.obs.items():
        known = None
        if name in of_library:
            known = column.iloc[like]
        elif name == attrs.get("instance_key"):
            known = pd.Series(new_instances(data, column, added))
        elif name == "in_tissue":
            known = _on_tissue(column, len(added))
        elif column.dtype == bool or column.dtype == "boolean":
            known = pd.Series(np.zeros(len(added), bool), dtype=column.dtype)
        columns[name] = column.reindex(names) if known is None else pd.concat([column, known]).set_axis(names)
    return pd.DataFrame(columns, index=names)


def _on_tissue(column: pd.Series, m: int) -> pd.Series | None:
    """``m`` times what stands for 1 in ``in_tissue``, a column of any type; ``None``: nothing can be told."""
    numbers = pd.to_numeric(column.astype(object), errors="coerce").to_numpy(float, na_value=np.nan)
    if (numbers == 1).any():
        return column.iloc[np.full(m, np.argmax(numbers == 1))]
    return pd.Series(np.ones(m)).astype(column.dtype) if pd.api.types.is_numeric_dtype(column) else None


def _stored_positions(table: AnnData, sites: Sites, added: Added) -> np.ndarray:
    """Positions in ``obsm["spatial"]``, which for a SpatialData may be in another frame than the sites'."""
    stored = np.asarray(table.obsm["spatial"], float)[sites.order]
    if np.array_equal(stored, sites.positions):
        return added.positions
    positions = np.full((len(added), *stored.shape[1:]), np.nan)
    for code, pitch in enumerate(sites.pitch):
        rows, new = sites.library == code, added.library == code
        change = _affine(sites.positions[rows], stored[rows])
        if np.abs(change(sites.positions[rows]) - stored[rows]).max() < 0.01 * np.abs(change(pitch * np.eye(2))).max():
            positions[new] = change(added.positions[new])
    return positions


def _affine(source: np.ndarray, target: np.ndarray):
    """The affine map between two frames, from the same points in both."""
    matrix, *_ = np.linalg.lstsq(np.column_stack([source, np.ones(len(source))]), target, rcond=None)
    return lambda points: np.column_stack([points, np.ones(len(points))]) @ matrix


def new_instances(sdata, column: pd.Series, added: Added) -> np.ndarray:
    """Names of the added shapes: numbers after those in use, or the names of the sites."""
    if column.dtype.kind not in "iu":
        return added.names.to_numpy()
    indices = [shapes.index for shapes in sdata.shapes.values()]
    largest = max(int(index.max()) for index in [pd.Index(column), *indices] if index.dtype.kind in "iu" and len(index))
    return (largest + 1 + np.arange(len(added))).astype(column.dtype)


def grow_spatialdata(sdata, table: AnnData, grown: AnnData, sites: Sites, added: Added):
    """A new SpatialData with the shapes of the added sites; all else is shared."""
    from spatialdata import SpatialData
    from spatialdata.models import TableModel

    attrs = table.uns["spatialdata_attrs"]
    regions, instances = grown.obs[attrs["region_key"]].astype(str), grown.obs[attrs["instance_key"]]
    positions = np.concatenate([sites.to_rows(sites.positions), added.positions])
    is_new = np.arange(grown.n_obs) >= table.n_obs
    shapes = dict(sdata.shapes)
    for region in sorted(set(regions[is_new])):
        old, new = (regions == region) & ~is_new, (regions == region) & is_new
        shapes[region] = _more_shapes(sdata[region], instances[old], instances[new], positions[old], positions[new])
    tables = {name: grown if other is table else other for name, other in sdata.tables.items()}
    TableModel().validate(grown)
    return SpatialData(
        images=dict(sdata.images), labels=dict(sdata.labels), points=dict(sdata.points), shapes=shapes, tables=tables,
        attrs=copy.deepcopy(sdata.attrs),
    )  # fmt: skip


def _more_shapes(element, old: pd.Series, new: pd.Series, old_positions: np.ndarray, new_positions: np.ndarray):
    """Shapes of a region, and those of new sites: each is the shape of the nearest site, moved."""
    import geopandas as gpd
    import shapely
    from scipy.spatial import cKDTree
    from spatialdata.models import ShapesModel
    from spatialdata.transformations import get_transformation

    templates = element.loc[old.to_numpy()]
    centres = shapely.get_coordinates(shapely.centroid(templates.geometry.to_numpy()))
    nearest = cKDTree(old_positions).query(new_positions)[1]
    moves = _affine(old_positions, centres)(new_positions) - centres[nearest]
    geometry = templates.geometry.to_numpy()[nearest]
    moves = np.repeat(moves, shapely.get_num_coordinates(geometry), axis=0)
    geometry = shapely.set_coordinates(geometry.copy(), shapely.get_coordinates(geometry) + moves)
    columns = {"radius": templates["radius"].to_numpy()[nearest]} if "radius" in templates else {}
    index = pd.Index(new.to_numpy(), name=element.index.name)
    longer = pd.concat([element, gpd.GeoDataFrame(columns, geometry=geometry, index=index, crs=element.crs)])
    return ShapesModel.parse(longer, transformations=dict(get_transformation(element, get_all=True)))
