"""Counts, their logs, and what is neither, are told apart by the ratios within spots, totals and deviations."""

import anndata as ad
import numpy as np
import pytest
from scipy import sparse

from snrmix.data.units import read_units


@pytest.fixture(scope="module")
def counts():
    """Counts of 120 spots and 400 genes, half of them zero, of depths from 300 to 3,000."""
    rng = np.random.default_rng(0)
    rates = rng.lognormal(0, 1.5, 400) * rng.lognormal(0, 0.3, (120, 400))
    depth = rng.uniform(300, 3000, (120, 1))
    return rng.poisson(depth * rates / rates.sum(1, keepdims=True)).astype(float)


def per_spot(counts, total=1e4):
    return total * counts / counts.sum(1, keepdims=True)


def log(counts, total=1e4):
    return np.log1p(per_spot(counts, total))


def ambient(counts):
    return np.maximum(counts - np.random.default_rng(1).uniform(0, 0.6, counts.shape), 0) * (counts > 0)


FORMS = {
    "counts": ("counts", lambda c: c),
    "counts that were downsampled": ("counts", lambda c: np.random.default_rng(0).binomial(c.astype(int), 0.3)),
    "log": ("log", log),
    "log in single precision": ("log", lambda c: log(c).astype(np.float32)),
    "log of counts per million": ("log", lambda c: log(c, 1e6)),
    "log of the median total": ("log", lambda c: log(c, np.median(c.sum(1)))),
    "log without normalisation": ("log of counts", np.log1p),
    "log of some genes": ("log", lambda c: log(c)[:, 50:90]),
    "log2": ("log2", lambda c: np.log2(1 + per_spot(c))),
    "log10": ("log10", lambda c: np.log10(1 + per_spot(c))),
    "square roots": ("square roots", lambda c: np.sqrt(per_spot(c))),
    "counts per 10,000": ("linear", per_spot),
    "counts per 100": ("linear", lambda c: per_spot(c, 100)),
    "shares": ("linear", lambda c: per_spot(c, 1)),
    "shares of ambient-corrected counts": ("linear", lambda c: per_spot(ambient(c), 1)),
    "logged twice": ("logged twice", lambda c: np.log1p(log(c))),
    "scaled without centring": ("scaled", lambda c: log(c) / log(c).std(0).clip(1e-9)),
    "scaled and clipped": ("scaled", lambda c: (log(c) / log(c).std(0).clip(1e-9)).clip(max=10)),
    "scaled to the largest": ("scaled", lambda c: log(c) / log(c).max(0).clip(1e-9)),
    "normalised and rounded": ("rounded", lambda c: np.rint(per_spot(c, 1e5))),
    "ambient-corrected": ("unclear", ambient),
    "log without normalisation, in single precision": ("log of counts", lambda c: np.log1p(c).astype(np.float32)),
    "log of counts of one total": ("log", lambda c: np.log1p(np.rint(per_spot(c, 3e4)))),
    "detected": ("detected", lambda c: c > 0),
    "detected, as yes and no": ("detected", lambda c: (c > 0).astype(np.uint8)),
    "one more than counts": ("shifted", lambda c: c + 1),
    "denoised": ("no zeros", lambda c: log(c + c.mean(0) + 0.1)),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("seen", ["all spots", "every other spot"])
def test_units_are_told_apart(counts, form, seen):
    kind, make = FORMS[form]
    values = sparse.csc_matrix(make(counts), dtype=float)
    if seen != "all spots":
        values = sparse.csc_matrix(values[::2])
    assert read_units(values).kind == kind


def test_ambient_corrected_counts_are_known_by_their_totals(counts):
    values = sparse.csc_matrix(ambient(counts))
    assert read_units(values, counts.sum(1) * 0.95).kind == "fractions"


@pytest.mark.parametrize(
    "form",
    ["scaled without centring", "scaled to the largest", "square roots", "counts per 100", "shares", "logged twice"],
)
def test_what_is_neither_is_refused_unless_the_user_says_so(tissue, impute, assert_unchanged, form):
    tissue.X = FORMS[form][1](tissue.X.toarray())
    before = tissue.copy()
    with pytest.raises(ValueError, match="^X looks") as error:
        impute(tissue)
    assert "say units=" in str(error.value)
    assert_unchanged(before, tissue)
    impute(tissue, units="counts" if "counts" in str(error.value).partition("say units=")[2][:10] else "log")


@pytest.mark.parametrize(
    ("form", "says"),
    [
        ("log2", "base of 2"),
        ("log10", "base of 10"),
        ("denoised", "denoised"),
        ("log without normalisation", "not brought to one total"),
        ("detected", "detected and what not"),
    ],
)
def test_what_is_doubtful_is_used_with_a_warning(tissue, impute, caplog, form, says):
    tissue.X = FORMS[form][1](tissue.X.toarray().astype(float))
    impute(tissue)
    assert says in caplog.text


@pytest.mark.parametrize("form", ["counts", "log", "log of counts per million"])
def test_nothing_is_said_of_ordinary_values(tissue, impute, caplog, form):
    tissue.X = FORMS[form][1](tissue.X.toarray())
    impute(tissue)
    assert not [record for record in caplog.records if record.levelname == "WARNING" and "X " in record.message]


def with_antibodies(adata, rate, kind="Antibody Capture"):
    """The same with eight features of another kind, counted at a rate per spot."""
    counts = np.random.default_rng(0).poisson(rate, (adata.n_obs, 8))
    both = ad.AnnData(
        sparse.csr_matrix(np.hstack([adata.X.toarray(), counts])), obs=adata.obs, obsm=dict(adata.obsm), uns=adata.uns
    )
    both.var_names = [*adata.var_names, *(f"CD{i}.1" for i in range(8))]
    both.var["feature_types"] = ["Gene Expression"] * adata.n_vars + [kind] * 8
    return both


@pytest.mark.parametrize("kind", ["Antibody Capture", "CRISPR Guide Capture", "Custom"])
def test_counts_of_other_features_do_not_normalise_those_of_genes(tissue, impute, kind):
    both = with_antibodies(tissue, 4000, kind)
    with pytest.raises(ValueError, match=f"8 of the 48 features are '{kind}', with 8. % of the counts") as error:
        impute(both, genes=None)
    adata = eval(
        error.value.args[0].partition("Keep the genes: adata = ")[2].partition(", and impute")[0], {"adata": both}
    )
    got = impute(adata, genes=None, copy=True)
    np.testing.assert_array_equal(got.layers["snrmix"], impute(tissue, genes=None, copy=True).layers["snrmix"])


def test_a_few_counts_of_other_features_are_warned_of(tissue, impute, caplog):
    impute(with_antibodies(tissue, 0.5), genes=None)
    assert "8 of the 48 features are 'Antibody Capture'" in caplog.text


def test_all_of_one_kind_is_not_spoken_of(tissue, impute, caplog):
    tissue.var["feature_types"] = "Antibody Capture"
    impute(tissue)
    assert "features are" not in caplog.text


@pytest.mark.parametrize(
    ("elsewhere", "says"), [("layer", "Others: layer='counts'"), ("raw", "adata = adata.raw.to_adata")]
)
def test_centred_values_name_where_others_are(tissue, impute, elsewhere, says):
    if elsewhere == "raw":
        tissue.raw = tissue
    else:
        tissue.layers["counts"] = tissue.X.copy()
    del tissue.layers["truth"]
    tissue.X = tissue.X.toarray() - tissue.X.toarray().mean(0)
    with pytest.raises(ValueError, match=says):
        impute(tissue, measured=np.ones(tissue.n_obs, bool))


def test_centred_values_are_refused(tissue, impute):
    values = log(tissue.X.toarray())
    tissue.X = (values - values.mean(0)) / values.std(0).clip(1e-9)
    with pytest.raises(ValueError, match="negative values of X in .* measured spots.*look scaled or centred"):
        impute(tissue, measured=np.ones(tissue.n_obs, bool))


@pytest.mark.parametrize("n", [1, 2, 9])
def test_counts_of_a_few_genes_are_refused(tissue, impute, n):
    with pytest.raises(ValueError, match=f"X has counts of {n} gene.*with all genes first.*genes="):
        impute(tissue[:, -n:].copy(), genes=None)


@pytest.mark.parametrize("column", ["total_counts", "n_counts", "nCount_Spatial", "nUMI"])
def test_counts_of_a_part_are_known_by_the_totals(tissue, impute, caplog, column):
    tissue.obs[column] = np.asarray(tissue.X.sum(1)).ravel()
    impute(tissue)
    assert "of the counts of a spot" not in caplog.text
    shares = np.asarray(tissue.X.sum(0)).ravel() / tissue.X.sum()
    few = tissue[:, np.argsort(shares)[:12]].copy()
    with pytest.raises(ValueError, match="% of the counts of a spot.*normalised by their total"):
        impute(few, genes=None, measured=np.asarray(few.X.sum(1)).ravel() > 0)
    impute(tissue[:, np.argsort(shares)[-14:]].copy(), genes=None)
    assert "of the counts of a spot" in caplog.text


def test_a_full_raw_tells_the_totals(tissue, impute):
    tissue.raw = tissue
    shares = np.asarray(tissue.X.sum(0)).ravel()
    few = tissue[:, np.argsort(shares)[:12]].copy()
    with pytest.raises(ValueError, match="% of the counts of a spot"):
        impute(few, genes=None, measured=np.asarray(few.X.sum(1)).ravel() > 0)


def test_a_small_panel_goes_on_where_the_user_says_so(tissue, impute, caplog):
    impute(tissue[:, :9].copy(), genes=None, units="counts", measured=np.asarray(tissue[:, :9].X.sum(1)).ravel() > 0)
    assert "counts of 9 gene" in caplog.text


@pytest.mark.parametrize(
    ("units", "form", "says"), [("log", "counts", "look like counts"), ("counts", "log", "logged again")]
)
def test_units_that_contradict_the_values_are_doubted(tissue, impute, caplog, units, form, says):
    tissue.X = FORMS[form][1](tissue.X.toarray())
    impute(tissue, units=units)
    assert says in caplog.text


def test_unmeasured_rows_have_no_say(tissue, impute):
    measured = np.arange(tissue.n_obs) % 3 > 0
    expected = impute(tissue, measured=measured, copy=True)
    values = tissue.X.toarray()
    values[~measured] = np.random.default_rng(0).normal(size=(sum(~measured), tissue.n_vars))
    tissue.X = values
    tissue.obs["total_counts"] = np.where(measured, values.sum(1), np.nan)
    got = impute(tissue, measured=measured, copy=True)
    np.testing.assert_array_equal(got.layers["snrmix"], expected.layers["snrmix"])
