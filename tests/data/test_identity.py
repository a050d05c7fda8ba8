"""Slides taken for one are noticed however they lost their names, and ordinary sections never are."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import snrmix
from snrmix.data.identity import check_slides, find_sign, read_labels

SECTIONS = ("st_her2_B4", "st_her2_C2", "st_her2_C3", "st_mob_1", "st_mob_2", "visium_crc", "visium_muscle_2dpi")


def slide(seed, *, n_rows=14, key="spatial"):
    adata = snrmix.datasets.synthetic_tissue(n_rows, 40, image_px_per_pitch=16, random_state=seed)
    del adata.obs["library_id"]
    adata.uns["spatial"] = {key: adata.uns["spatial"]["synthetic"]}
    return adata


@pytest.fixture(scope="module")
def two():
    """Two sections, each with a stored section of the name "spatial"."""
    return slide(0), slide(1)


def barcodes(n, seed=0):
    letters = np.random.default_rng(seed).choice(list("ACGT"), (n, 16))
    return pd.Index(["".join(row) for row in letters])


def without_places(adata):
    adata.obs = adata.obs.drop(columns=["array_row", "array_col"])
    return adata


# How slides lose their names


def concatenated(a, b):
    return ad.concat([a, b], label="sample", index_unique="-", uns_merge="first")


def concatenated_same(a, b):
    return ad.concat([a, b], label="sample", index_unique="-", uns_merge="same")


def concatenated_unique(a, b):
    return ad.concat([a, b], label="sample", index_unique="-", uns_merge="unique")


def concatenated_without_uns(a, b):
    return ad.concat([a, b], label="slide_nr", index_unique="_")


def concatenated_without_label(a, b):
    return ad.concat([a, b], index_unique="-", uns_merge="first")


def names_made_unique(a, b):
    x = ad.concat([a, b], uns_merge="first")
    x.obs_names_make_unique()
    return x


def renumbered(a, b):
    x = ad.concat([a, b], uns_merge="first")
    x.obs_names = [str(i) for i in range(x.n_obs)]
    return x


def library_constant(a, b):
    x = ad.concat([a, b], label="batch", index_unique="-", uns_merge="first")
    x.obs["library_id"] = "spatial"
    return x


def in_the_wrong_column(a, b):
    x = ad.concat([a, b], label="donor", index_unique="-", uns_merge="first")
    x.obs["library_id"] = pd.Categorical(["patient"] * x.n_obs)
    return x


def merged_by_seurat(a, b):
    for one, sample in ((a, "1"), (b, "2")):
        one.obs_names = barcodes(one.n_obs) + "-1_" + sample
    return without_places(ad.concat([a, b], uns_merge="first"))


def merged_with_prefixes(a, b):
    for one, sample in ((a, "left"), (b, "right")):
        one.obs_names = sample + "_" + barcodes(one.n_obs) + "-1"
    return without_places(ad.concat([a, b], uns_merge="first"))


def aggregated_by_space_ranger(a, b):
    for one, sample in ((a, "-1"), (b, "-2")):
        one.obs_names = barcodes(one.n_obs) + sample
    return without_places(ad.concat([a, b], uns_merge="first"))


def side_by_side(a, b):
    b.obsm["spatial"] = b.obsm["spatial"] + [5000, 0]
    return concatenated(a, b)


def the_same_twice(a, b):
    return without_places(ad.concat([a, a.copy()], index_unique="-", uns_merge="first"))


def interleaved_cells(a, b):
    x = without_places(concatenated(a, b))
    x.obsm["spatial"] = np.random.default_rng(0).uniform(300, 800, (x.n_obs, 2))
    x.obs_names = [f"cell{i}" for i in range(x.n_obs)]
    return x


def interleaved_cells_by_name(a, b):
    x = without_places(concatenated(a, b))
    x.obsm["spatial"] = np.random.default_rng(0).uniform(300, 800, (x.n_obs, 2))
    x.obs_names = [f"cell{i}" for i in range(a.n_obs)] + [f"cell{i}.b" for i in range(b.n_obs)]
    del x.obs["sample"]
    return x


def arrays_without_a_trace(a, b):
    x = without_places(concatenated_without_label(a, b))
    x.obs_names = [str(i) for i in range(x.n_obs)]
    x.obsm["spatial"][a.n_obs :] += [13, 22]
    return x


def spots_of_three(a, b):
    return ad.concat([a, b, a.copy()], label="section", index_unique="-", uns_merge="first")


LOST = [
    (concatenated, "library_key='sample'"),
    (concatenated_same, "library_key='sample'"),
    (concatenated_unique, "library_key='sample'"),
    (concatenated_without_uns, "library_key='slide_nr'"),
    (concatenated_without_label, "adata.obs_names"),
    (names_made_unique, "make one"),
    (renumbered, "make one"),
    (library_constant, "library_key='batch'"),
    (in_the_wrong_column, "library_key='donor'"),
    (merged_by_seurat, "adata.obs_names"),
    (merged_with_prefixes, "adata.obs_names"),
    (aggregated_by_space_ranger, "adata.obs_names"),
    (side_by_side, "library_key='sample'"),
    (the_same_twice, "adata.obs_names"),
    (interleaved_cells, "library_key="),
    (interleaved_cells_by_name, "library_key="),
    (arrays_without_a_trace, "make one"),
    (spots_of_three, "library_key='section'"),
]


@pytest.mark.parametrize(("lose", "says"), LOST, ids=[lose.__name__ for lose, _ in LOST])
def test_slides_taken_for_one_are_refused(two, lose, says, impute, assert_unchanged):
    x = lose(*(one.copy() for one in two))
    before = x.copy()
    with pytest.raises(ValueError, match="seems to be several slides") as error:
        impute(x, measured=np.ones(x.n_obs, bool))
    assert says in str(error.value)
    assert_unchanged(before, x)


@pytest.mark.parametrize(
    "call",
    [
        lambda x: snrmix.pp.embed_histology(x, encoder="colour"),
        snrmix.pp.hold_out,
        lambda x: snrmix.pp.fill_grid(x, 2),
        lambda x: snrmix.pl.crops(x, show=False),
    ],
    ids=["embed_histology", "hold_out", "fill_grid", "crops"],
)
def test_no_function_takes_slides_for_one(two, call):
    with pytest.raises(ValueError, match="seems to be several slides"):
        call(concatenated(*two))


def test_the_line_in_the_message_tells_them_apart(two):
    x = concatenated_without_label(*two)
    with pytest.raises(ValueError, match="adata.obs") as error:
        snrmix.pp.hold_out(x)
    line = str(error.value).partition("adata.obs['slide'] = ")[2].partition(", then")[0]
    x.obs["slide"] = eval(line, {"adata": x})
    x.uns["spatial"] = dict.fromkeys(x.obs["slide"].unique(), x.uns["spatial"]["spatial"])
    snrmix.pp.embed_histology(x, encoder="colour", library_key="slide")
    assert (
        sorted(x.uns["X_histology"]["libraries"]) == sorted(x.obs["slide"].unique()) and x.obs["slide"].nunique() == 2
    )


def test_a_column_of_the_keys_of_the_images_is_taken(two, caplog):
    a, b = two[0].copy(), two[1].copy()
    a.uns["spatial"], b.uns["spatial"] = {"A": a.uns["spatial"]["spatial"]}, {"B": b.uns["spatial"]["spatial"]}
    x = ad.concat({"A": a, "B": b}, label="slice", index_unique="-", uns_merge="unique")
    snrmix.pp.hold_out(x, kind="library", library="A")
    assert "obs['slice']" in caplog.text
    np.testing.assert_array_equal(x.obs["measured_held_out"], x.obs["slice"] == "A")


@pytest.mark.parametrize("kind", [str, int, float, np.int64, bytes])
@pytest.mark.parametrize("column", [str, int, float, "category"])
def test_names_of_libraries_may_be_numbers_or_text(two, kind, column):
    obs = pd.DataFrame({"slide": [1] * 5 + [2] * 5}).astype({"slide": column})
    from snrmix.data.stored import stored_sections

    keys = {kind(n) if kind is not bytes else str(n).encode(): {"images": {}} for n in (1, 2)}
    stored = stored_sections(ad.AnnData(np.ones((1, 1)), uns={"spatial": keys}))
    labels, key = read_labels(obs, list(stored), "slide")
    assert sorted(stored) == ["1", "2"] and labels.tolist() == ["1"] * 5 + ["2"] * 5 and key == "slide"


def test_missing_names_are_refused_with_another_column():
    obs = pd.DataFrame({"library_id": ["A"] * 10 + [None] * 10, "sample": ["a"] * 10 + ["b"] * 10})
    with pytest.raises(ValueError, match="10 missing values.*library_key='sample'"):
        read_labels(obs, [], None)


def test_several_stored_sections_name_the_columns_that_could_be_meant():
    obs = pd.DataFrame({"donor": ["x"] * 10 + ["y"] * 10, "clusters": list("abcde") * 4})
    with pytest.raises(ValueError, match="2 libraries.*It could be 'donor'"):
        read_labels(obs, ["A", "B"], None)


@pytest.mark.parametrize("column", ["sample", "slice", "region of the tissue"])
def test_a_slide_cut_out_of_several_is_known_by_its_name(column):
    obs = pd.DataFrame({column: pd.Categorical(["B"] * 10, categories=["A", "B", "C"]), "kind": list("ab") * 5})
    labels, key = read_labels(obs, ["A", "B", "C"], None)
    assert key == column and set(labels) == {"B"}


def test_two_slides_of_three_are_known_by_their_names():
    obs = pd.DataFrame({"slide": ["A"] * 10 + ["C"] * 10, "sex": "F"})
    labels, key = read_labels(obs, ["A", "B", "C"], None)
    assert key == "slide" and set(labels) == {"A", "C"}


def test_a_slide_cut_out_of_several_without_its_name_is_asked_for():
    obs = pd.DataFrame({"sample": ["x"] * 10})
    with pytest.raises(ValueError, match=r"If all are in one of them.*adata.obs\['library_id'\] = 'A'"):
        read_labels(obs, ["A", "B"], None)


@pytest.mark.parametrize("given", [["slide"], np.array(["A", "B"]), pd.Series(["A"]), {"A": 1}])
def test_a_library_key_is_a_name(tissue, given):
    with pytest.raises(TypeError, match="library_key must be the name of an obs column, not"):
        snrmix.pp.hold_out(tissue, library_key=given)


# What is one slide


@pytest.mark.parametrize("nth", [2, 3, 4])
@pytest.mark.parametrize("by", ["rows of the table", "places", "columns of the array"])
def test_every_nth_spot_of_an_array_is_one_slide(nth, by):
    adata = snrmix.datasets.synthetic_tissue(30, 10, image_px_per_pitch=16)
    row, column = adata.obs["array_row"].to_numpy(), adata.obs["array_col"].to_numpy()
    kept = {
        "rows of the table": np.arange(adata.n_obs) % nth == 0,
        "places": (row + column // 2) % nth == 0,
        "columns of the array": column % nth < (nth + 1) // 2,
    }[by]
    snrmix.pp.hold_out(adata[kept].copy())


def test_places_that_do_not_say_where_spots_are_prove_nothing(two):
    x = arrays_without_a_trace(*(one.copy() for one in two))
    x.obs["array_row"], x.obs["array_col"] = np.arange(x.n_obs) // 20, np.arange(x.n_obs) % 20
    with pytest.raises(ValueError, match="seems to be several slides"):
        snrmix.pp.hold_out(x)


@pytest.mark.parametrize("name", SECTIONS)
def test_real_sections_and_their_parts_are_one(real_file, name):
    adata = ad.read_h5ad(real_file(f"{name}.h5ad"), backed="r")
    obs, positions, rng = adata.obs, np.asarray(adata.obsm["spatial"], float), np.random.default_rng(0)
    bare = obs.drop(columns=["array_row", "array_col"])
    by_place = obs.set_axis([f"{r}_{c}" for r, c in zip(obs["array_row"], obs["array_col"], strict=True)])
    for share in (1, 0.4, 0.1):
        rows = rng.choice(len(obs), max(30, int(share * len(obs))), replace=False)
        box = np.argsort(np.abs(positions - positions[rows[0]]).max(1))[: len(rows)]
        for chosen in (rows, box):
            for frame in (obs, bare, by_place):
                assert find_sign(frame.iloc[chosen], positions[chosen]) is None


def grid(n):
    return np.stack(np.meshgrid(np.arange(n), np.arange(n)), -1).reshape(-1, 2).astype(float)


def hexagons(n):
    return grid(n) @ [[1, 0], [0.5, np.sqrt(3) / 2]]


RNG = np.random.default_rng(0)
ONE = {
    "cells": RNG.uniform(0, 1000, (2000, 2)),
    "cells in clumps": RNG.normal(0, 30, (2000, 2)) + RNG.uniform(0, 1000, (20, 2))[RNG.integers(20, size=2000)],
    "cells at whole pixels": RNG.integers(0, 500, (2000, 2)).astype(float),
    "cells at coarse pixels": RNG.integers(0, 100, (4000, 2)).astype(float),
    "bins": grid(50),
    "half of the bins": grid(50)[RNG.random(2500) < 0.5],
    "bins of two sizes": np.concatenate([grid(30), grid(30) + 40]),
    "hexagons": hexagons(40),
    "a part of hexagons": hexagons(40)[RNG.random(1600) < 0.3],
    "a rotated array": hexagons(40) @ [[0.8, 0.6], [-0.6, 0.8]],
    "a warped array": hexagons(40) + 0.1 * np.sin(hexagons(40) / 5),
    "an uneven array": hexagons(40) + RNG.normal(0, 0.06, (1600, 2)),
    "oblong bins": grid(40) * [1, 3],
    "failed spots at one place": np.where(RNG.random((1600, 1)) < 0.3, 0, hexagons(40) + 50),
    "a few places twice": np.concatenate([hexagons(40), hexagons(40)[:8]]),
}


@pytest.mark.parametrize("kind", ONE)
@pytest.mark.parametrize("names", ["numbers", "barcodes", "cells of Xenium", "row_column", "FOV"])
def test_ordinary_sections_are_one(kind, names):
    positions = ONE[kind]
    n = len(positions)
    index = {
        "numbers": [str(i) for i in range(n)],
        "barcodes": barcodes(n) + "-1",
        "cells of Xenium": [f"{name[:8].lower()}-1" for name in barcodes(n)],
        "row_column": [f"{x:.0f}_{y:.0f}_{i}" for i, (x, y) in enumerate(positions)],
        "FOV": [f"{i % 400}_{place}" for i, place in enumerate(np.argsort(np.argsort(positions[:, 0])) // 400)],
    }[names]
    obs = pd.DataFrame({"clusters": np.arange(n) % 7, "in_tissue": 1, "n": np.arange(n)}, index=index)
    assert find_sign(obs, positions) is None


def test_pieces_on_one_slide_are_one_and_are_named(caplog):
    positions = np.concatenate([hexagons(12) + [30 * i, 0] for i in range(4)])
    obs = pd.DataFrame({"sample": np.repeat(list("abcd"), 144)}, index=barcodes(576))
    check_slides(np.repeat("library", 576), obs, positions, None, has_images=False)
    assert "obs['sample'] are slides of their own, pass library_key='sample'" in caplog.text


@pytest.mark.parametrize("share", [0.1, 0.5])
@pytest.mark.parametrize(
    "positions", [grid(40), hexagons(40), ONE["an uneven array"]], ids=["bins", "hexagons", "uneven"]
)
def test_pieces_of_one_array_put_together_are_one(positions, share):
    part = np.random.default_rng(0).random(len(positions)) < share
    names = [f"{i}-{int(one)}" for i, one in enumerate(part)]
    assert find_sign(pd.DataFrame({"batch": pd.Categorical(part.astype(int))}, index=names), positions) is None


def test_a_line_for_any_ending_of_the_names():
    positions = np.concatenate([hexagons(12), hexagons(12)])
    obs = pd.DataFrame(index=[f"spot{i:03d}-{s}" for s in ("left", "right") for i in range(144)])
    with pytest.raises(ValueError, match="adata.obs") as error:
        check_slides(np.repeat("library", 288), obs, positions, None)
    line = str(error.value).partition("adata.obs['slide'] = ")[2].partition(", then")[0]
    adata = ad.AnnData(np.ones((288, 1)), obs=obs)
    adata.obs["slide"] = eval(line, {"adata": adata})
    assert adata.obs["slide"].tolist() == ["left"] * 144 + ["right"] * 144


def test_numbers_of_slides_may_be_floats():
    positions = np.concatenate([hexagons(12), hexagons(12)])
    obs = pd.DataFrame(
        {"total": RNG.random(288), "slide": [1.0] * 144 + [2.0] * 144}, index=[str(i) for i in range(288)]
    )
    with pytest.raises(ValueError, match="library_key='slide'"):
        check_slides(np.repeat("library", 288), obs, positions, None)


def test_added_sites_are_no_second_slide(tissue):
    dense = snrmix.pp.fill_grid(tissue, 2)
    denser = snrmix.pp.fill_grid(dense, 2)
    assert dense.n_obs > 2 * tissue.n_obs
    for sites in (dense, denser):
        assert find_sign(sites.obs, sites.obsm["spatial"]) is None


def test_order_of_rows_does_not_matter(two):
    x = concatenated(*two)
    said = set()
    for seed in range(3):
        rows = np.random.default_rng(seed).permutation(x.n_obs)
        with pytest.raises(ValueError) as error:
            snrmix.pp.hold_out(x[rows].copy())
        said.add(str(error.value).partition(":")[0])
    assert len(said) == 1
