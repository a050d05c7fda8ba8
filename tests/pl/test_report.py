"""What a report says and holds, read from its file; how it behaves is in test_report_browser.py."""

import base64
import html
import json
import re
import shlex

import anndata
import numpy as np
import pytest

import snrmix
from snrmix.cli import main
from snrmix.pl._report_maps import STEPS
from snrmix.pl._report_slides import HIDDEN, MEASURED, UNMEASURED


def content(path) -> dict:
    text = path.read_text(encoding="utf-8")
    return json.loads(re.search(r'<script type="application/json" id="content">(.*?)</script>', text, re.DOTALL)[1])


def words(path) -> str:
    """What is written on the page, without its data, script and style."""
    text = re.sub(r"<(script|style|svg)\b.*?</\1>", " ", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", text)).split())


def raw(text: str) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text), np.uint8)


def maps_of(path, gene: str, slide: int = 0) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """What each place is, and its values, NaN where there is none: as the page reads its bytes."""
    maps = content(path)["maps"]
    packed = next(one for one in maps["genes"] if one["n"] == gene)["s"][slide]
    kinds, data = raw(maps["slides"][slide]["kinds"]), raw(packed["d"])
    seen = np.isin(kinds, (MEASURED, HIDDEN)) if maps["seen"] else np.zeros(len(kinds), bool)
    own = (kinds != MEASURED) if maps["keeps"] else np.ones(len(kinds), bool)
    found, at = {}, 0
    for name, where, scale in (("seen", seen, "v"), ("imputed", own, "v"), ("sd", own & maps["sd"], "u")):
        found[name] = np.full(len(kinds), np.nan)
        low, high = packed.get(scale, [0, 1])[:2]
        found[name][where] = low + data[at : at + where.sum()] / STEPS * (high - low)
        at += where.sum()
    assert at == len(data)
    return kinds, found


@pytest.fixture(scope="module")
def page(half_imputed, tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "report.html"
    assert snrmix.pl.report(half_imputed, path, genes="NOISE_01", source="section.h5ad") == path
    return path


def test_maps_hold_the_values_of_the_result(page, half_imputed):
    order = np.argsort(half_imputed.obs_names)  # one library: places are sorted by name
    measured = half_imputed.obs["snrmix_measured"].to_numpy()[order]
    for gene in ("NOISE_01", "GLAND_01"):
        kinds, maps = maps_of(page, gene)
        np.testing.assert_array_equal(kinds == MEASURED, measured)
        np.testing.assert_array_equal(kinds == HIDDEN, half_imputed.obs["measured_held_out"].to_numpy()[order])
        layer, sd = (half_imputed.obs_vector(gene, layer=name)[order] for name in ("snrmix", "snrmix_sd"))
        counts = half_imputed.X.toarray()
        truth = np.log1p(1e4 * counts / counts.sum(1, keepdims=True))[order, half_imputed.var_names.get_loc(gene)]
        step = np.ptp(truth) / STEPS
        np.testing.assert_allclose(maps["seen"], truth, atol=step)
        np.testing.assert_allclose(maps["imputed"][~measured], layer[~measured], atol=step)
        np.testing.assert_allclose(maps["sd"][~measured], sd[~measured], atol=sd.max() / STEPS)
        assert np.isnan(maps["imputed"][measured]).all(), "values that were kept are not stored twice"


def test_spots_are_where_they_were(page, half_imputed):
    slide = content(page)["maps"]["slides"][0]
    places = np.frombuffer(base64.b64decode(slide["places"]), "<u2").reshape(-1, 2) / 65535
    places = places * [slide["width"], slide["height"]] * slide["um"]
    spots = (
        half_imputed[np.sort(half_imputed.obs_names)].obsm["spatial"]
        * half_imputed.uns["snrmix"]["image"]["um_per_px"][0]
    )
    np.testing.assert_allclose(places - places[0], spots - spots[0], atol=1)  # micrometres
    assert slide["pitch"] * slide["um"] == pytest.approx(100, rel=0.01)


def test_table_holds_the_scores_best_first(page, half_imputed):
    genes = content(page)["genes"]
    columns = {column["part"]: column["values"] for column in genes["columns"]}
    assert sorted(genes["names"]) == sorted(half_imputed.var_names)
    var = half_imputed.var.loc[genes["names"]]
    for part in ("explained", "pearson", "explained_given_depth"):
        np.testing.assert_allclose(columns[part], var[f"snrmix_{part}"], atol=6e-4)
    np.testing.assert_array_equal(columns["reliable"], var["snrmix_reliable"])
    assert columns["reliable"] == sorted(columns["reliable"], reverse=True)
    best = [value for value, flag in zip(columns["explained_given_depth"], columns["reliable"], strict=True) if flag]
    assert best == sorted(best, reverse=True)
    held = snrmix.tl.evaluate(half_imputed, "measured_held_out").loc[genes["names"]]
    np.testing.assert_allclose(columns["hidden_pearson"], held["pearson"], atol=6e-4)


def test_words_are_those_of_the_scores(page, half_imputed):
    said, var = words(page), half_imputed.var
    n = int(var["snrmix_reliable"].sum())
    assert f"For {n} of 40 genes the map may be looked at." in said
    ratios = half_imputed.uns["snrmix"]["scores"]["mse_ratio"]
    assert f"the squared error is {100 * ratios['snrmix']:.0f} % of what always saying a gene's mean would give" in said
    share = max(0, (1 - ratios["depth"]) / (1 - ratios["snrmix"]))
    assert f"{100 * share:.0f} % of this fall is sequencing depth" in said
    held = snrmix.tl.evaluate(half_imputed, "measured_held_out").attrs["overall"]
    assert f"There the squared error is {100 * held['mse_ratio']:.0f} % of the mean's" in said
    at_90 = snrmix.tl.coverage(half_imputed, levels=[0.9]).query("by == 'all'")["observed"].iloc[0]
    assert f"(90 %) held {100 * at_90:.1f} %" in said
    assert "Visium" in said and "64 px from spot to spot = 100 µm (1.56 µm per px)" in said
    assert "image 'hires', 232 x 200 px" in said


def test_genes_that_are_asked_for_come_first(half_imputed, page, tmp_path):
    assert content(page)["maps"]["genes"][0]["n"] == "NOISE_01"
    path = snrmix.pl.report(half_imputed, tmp_path / "few.html", genes=["FAT_01", "GLAND_02", "FAT_01"], maps=3)
    names = [gene["n"] for gene in content(path)["maps"]["genes"]]
    assert names[:2] == ["FAT_01", "GLAND_02"] and len(names) == 3
    assert not content(snrmix.pl.report(half_imputed, path, maps=0))["maps"]["genes"]


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"genes": "GLAND_1"}, KeyError, "GLAND_1"),
        ({"key": "other"}, KeyError, "no result 'other' in uns"),
        ({"held_out": "nosuch"}, KeyError, "nosuch"),
        ({"held_out": "measured"}, ValueError, "were measured when the layer was imputed"),
        ({"maps": -1}, ValueError, "maps=-1"),
        ({"image": 3}, TypeError, "image=3"),
    ],
)
def test_what_cannot_be(half_imputed, tmp_path, options, error, says):
    path = tmp_path / "report.html"
    path.write_text("precious")
    with pytest.raises(error, match=says):
        snrmix.pl.report(half_imputed, path, **options)
    assert path.read_text() == "precious"
    with pytest.raises(ValueError, match="must end in .html"):
        snrmix.pl.report(half_imputed, tmp_path / "report.pdf")


def test_object_is_left_alone(half_imputed, tmp_path, assert_unchanged):
    before = half_imputed.copy()
    snrmix.pl.report(half_imputed, tmp_path / "report.html")
    assert_unchanged(before, half_imputed)


def test_warnings_of_the_run_are_in_the_result_and_on_the_page(tissue, impute, tmp_path):
    counts = tissue.X.toarray()
    tissue.obs["measured"] = counts.sum(1) > np.quantile(counts.sum(1), 0.4)  # the shallow ones are missing
    impute(tissue, measured="measured")
    warned = list(tissue.uns["snrmix"]["warnings"])
    assert any("depth" in one for one in warned)
    tissue.write_h5ad(tmp_path / "imputed.h5ad")
    page = snrmix.pl.report(
        anndata.read_h5ad(tmp_path / "imputed.h5ad"), tmp_path / "report.html", warnings=["It rained."]
    )
    for one in [*warned, "It rained."]:
        assert " ".join(one.split()) in words(page)


def test_the_call_on_the_page_repeats_the_run(tissue, tmp_path, capsys):
    options = {"encoder": "colour", "max_epochs": 2, "genes": 20, "n_folds": 2, "learning_rate": 2e-3, "mix": "mixup"}
    tissue.obs["good"] = np.arange(tissue.n_obs) % 3 > 0
    tissue.write_h5ad(tmp_path / "section.h5ad")
    snrmix.tl.impute(tissue, measured="good", losses=snrmix.Losses(edge=0.2), **options)
    page = snrmix.pl.report(tissue, tmp_path / "report.html", source="section.h5ad")
    command, python = (
        html.unescape(one) for one in re.findall(r"<pre[^>]*><code>(.*?)</code>", page.read_text(), re.DOTALL)
    )
    arguments = shlex.split(command)
    arguments = [str(tmp_path / word) if word.endswith(".h5ad") else word for word in arguments]
    assert main([*arguments[1:], "--quiet"]) == 0
    again = anndata.read_h5ad(tmp_path / "repeated.h5ad")
    np.testing.assert_array_equal(again.layers["snrmix"], tissue.layers["snrmix"])
    scope = {}
    exec(python.replace("section.h5ad", str(tmp_path / "section.h5ad")), scope)
    np.testing.assert_array_equal(scope["adata"].layers["snrmix"], tissue.layers["snrmix"])
    assert scope["adata"].uns["snrmix"]["parameters"]["losses"]["edge"] == 0.2


def test_command(half_imputed, tmp_path, capsys):
    source, page = tmp_path / "imputed.h5ad", tmp_path / "report.html"
    half_imputed.write_h5ad(source)
    assert main(["report", str(source), "--quiet"]) == 1
    assert "nothing to write" in capsys.readouterr().err
    words = [
        "report",
        str(source),
        "-o",
        str(page),
        "--genes",
        "FAT_01",
        "FAT_02",
        "--maps",
        "2",
        "--image",
        "false",
        "--json",
    ]
    assert main(words) == 0
    assert json.loads(capsys.readouterr().out)["files"] == [str(page)]
    assert [gene["n"] for gene in content(page)["maps"]["genes"]] == ["FAT_01", "FAT_02"]
    assert "data:image" not in page.read_text()
    assert main(words) == 1
    assert "pass --force" in capsys.readouterr().out
    assert main([*words, "--force", "--multiqc", str(tmp_path)]) == 0
    assert len(json.loads(capsys.readouterr().out)["files"]) == 3


def test_a_section_of_visium_size_stays_small(half_imputed, tmp_path):
    """A made-up result of 3,600 spots and 300 genes whose values and pixels are noise, which nothing packs well."""
    rng, n_genes = np.random.default_rng(0), 300
    row, column = np.divmod(np.arange(3600), 60)
    spots = np.column_stack([2 * column + row % 2, row * np.sqrt(3)]) * 16.0 + 20
    adata = anndata.AnnData(
        rng.poisson(2, (len(row), n_genes)).astype(np.float32),
        obs={"array_row": row, "array_col": 2 * column + row % 2, "snrmix_measured": np.full(len(row), True)},
        obsm={"spatial": spots}, var={"snrmix_reliable": rng.random(n_genes) > 0.5, "snrmix_modelled": np.full(n_genes, True)},
    )  # fmt: skip
    adata.obs_names, adata.var_names = [f"s{i}" for i in range(len(row))], [f"gene {i}" for i in range(n_genes)]
    image = rng.integers(0, 256, (240, 250, 3), np.uint8).repeat(8, 0).repeat(8, 1)
    adata.uns["spatial"] = {"synthetic": {"images": {"hires": image}, "scalefactors": {"tissue_hires_scalef": 1.0}}}
    for name in ("snrmix", "snrmix_sd"):
        adata.layers[name] = rng.random(adata.shape, np.float32)
    for name in ("pearson", "explained"):
        adata.var[f"snrmix_{name}"] = rng.random(n_genes)
    record = {name: part for name, part in half_imputed.uns["snrmix"].items() if name != "image"}
    adata.uns["snrmix"] = {
        **record,
        "fill": "all",
        "image": {"libraries": ["library"], "um_per_px": [3.1], "pitch": [32.0]},
    }
    path = snrmix.pl.report(adata, tmp_path / "report.html")
    assert len(content(path)["maps"]["genes"]) == 3_000_000 // (3 * adata.n_obs)
    assert "data:image/jpeg" in path.read_text()
    assert 4e6 < path.stat().st_size < 7e6


def test_very_many_spots_become_squares(half_imputed, tmp_path, monkeypatch):
    from snrmix.pl import _report_slides

    monkeypatch.setattr(_report_slides, "MOST_SPOTS", 40)
    path = snrmix.pl.report(half_imputed, tmp_path / "report.html", genes="GLAND_01")
    slide = content(path)["maps"]["slides"][0]
    kinds, maps = maps_of(path, "GLAND_01")
    assert slide["binned"] and 10 < len(kinds) < 60
    assert set(kinds) <= {UNMEASURED, MEASURED, HIDDEN}
    layer = half_imputed.obs_vector("GLAND_01", layer="snrmix")
    shown = np.where(kinds == MEASURED, maps["seen"], maps["imputed"])
    assert np.isfinite(shown).all()
    assert layer.min() - 0.02 <= shown.min() and shown.max() <= layer.max() + 0.02
    assert shown.mean() == pytest.approx(layer.mean(), abs=0.25)
