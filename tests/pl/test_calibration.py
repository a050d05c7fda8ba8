import numpy as np

import snrmix


def test_calibration_draws_coverage(half_imputed, tmp_path, texts):
    axes = snrmix.pl.calibration(half_imputed, save=tmp_path / "figure.png")
    table = snrmix.tl.coverage(half_imputed)
    overall = table[table["by"] == "all"]
    assert len(axes) == 3 and (tmp_path / "figure.png").stat().st_size > 5000
    np.testing.assert_allclose(axes[0].lines[0].get_xydata(), overall[["level", "observed"]])
    assert [len(ax.lines) for ax in axes] == [3, 5, 5]
    at_90 = overall.set_index("level").loc[0.9, "observed"]
    assert f"90 % intervals hold {100 * at_90:.1f} %" in texts(axes)
    assert all(word in texts(axes) for word in ("nearest quarter", "largest quarter", "tenth with fewest counts"))
