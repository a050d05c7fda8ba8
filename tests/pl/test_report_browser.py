"""Reports in a real browser: what a reader does with mouse, keyboard and phone, and that the page asks nobody for anything."""

import re
import shutil
import time

import anndata
import numpy as np
import pytest

import snrmix

sync_api = pytest.importorskip("playwright.sync_api", reason="no playwright (pip install playwright)")
CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on the PATH (apt-get install chromium)")
FLAGS = [
    "--no-sandbox", "--headless", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
HOSTILE = (
    "<script>window.hacked = 1</script>",
    '"><img src=x onerror="window.hacked = 2">',
    "</script><b>'&{{ 7 * 7 }}",
    "=1+1",
)


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def report_file(half_imputed, tmp_path_factory):
    """A report with names that would be markup."""
    adata = half_imputed.copy()
    names = adata.var_names.to_list()
    best = adata.var["snrmix_explained"].argsort().to_numpy()[::-1]
    for place, name in zip(best, HOSTILE, strict=False):
        names[place] = name
    adata.var_names = names
    adata.uns["snrmix"] = {**adata.uns["snrmix"], "warnings": np.array([HOSTILE[0]], object)}
    path = tmp_path_factory.mktemp("browser") / "report.html"
    return snrmix.pl.report(adata, path, genes=[*HOSTILE, "GRADIENT_01"], title=HOSTILE[1], source=HOSTILE[0]), adata


def is_complaint(message) -> bool:
    """Errors and warnings, but not of how the tests themselves read pixels."""
    return message.type in ("error", "warning") and "getImageData" not in message.text


@pytest.fixture
def visit(browser):
    """Opens pages; at the end nothing was complained of, and nothing was asked of the network."""
    contexts, complaints, requests = [], [], []

    def open_page(path, **options):
        context = browser.new_context(
            **{"viewport": {"width": 1280, "height": 900}, "reduced_motion": "reduce", **options}
        )
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(20_000)
        page.on("console", lambda message: complaints.append(message.text) if is_complaint(message) else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("dialog", lambda dialog: complaints.append(dialog.message))

        def refuse(route):
            if route.request.url == path.as_uri():
                return route.continue_()
            requests.append(route.request.url)
            return route.abort()

        page.route("**/*", refuse)
        page.on(
            "request",
            lambda request: None if request.url.startswith(("file:", "data:")) else requests.append(request.url),
        )
        page.goto(path.as_uri())
        until(page, "document.getElementById('map').width > 300 || document.getElementById('viewer').hidden")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert complaints == []
    assert requests == []


@pytest.fixture
def page(visit, report_file):
    return visit(report_file[0])


def column(page, title: str) -> list[str]:
    """What is written in a column of the table of genes."""
    heads = page.locator("#gene-table thead th").all_inner_texts()
    at = next(i for i, head in enumerate(heads) if head.strip() == title)
    return [row.locator("th, td").nth(at).inner_text().strip() for row in page.locator("#gene-table tbody tr").all()]


def numbers(cells: list[str]) -> np.ndarray:
    return np.array([float(cell.replace("%", "").replace("−", "-")) if cell != "–" else np.nan for cell in cells])


def pixels(page) -> bytes:
    return page.evaluate(
        "[...document.getElementById('map').getContext('2d').getImageData(0, 0, 400, 400).data].join()"
    )


def until(page, condition: str) -> None:
    """Wait for a condition; the policy of the page forbids to let it wait by itself."""
    deadline = time.monotonic() + 20
    while not page.evaluate(condition):
        assert time.monotonic() < deadline, condition
        page.wait_for_timeout(20)


def map_box(page) -> dict[str, float]:
    """Where the map is, brought to the top of the window."""
    page.evaluate("document.getElementById('stage').scrollIntoView()")
    return page.locator("#map").bounding_box()


def drawn(page) -> None:
    """Wait until what was asked for is on the canvas."""
    page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")


def test_names_are_text(page, report_file):
    assert page.evaluate("window.hacked") is None
    assert page.locator("h1").inner_text() == HOSTILE[1]
    assert set(HOSTILE) <= set(column(page, "Gene"))
    assert set(HOSTILE) <= set(page.locator("#gene option").all_inner_texts())
    assert HOSTILE[0] in page.locator(".doubts").inner_text()
    assert page.locator(".card h4").first.inner_text() == HOSTILE[0]
    assert page.locator("main script, main img, main b").count() == 0
    policy = page.locator("meta[http-equiv=Content-Security-Policy]").get_attribute("content")
    assert "default-src 'none'" in policy and "script-src 'sha256-" in policy


def test_sorting(page, report_file):
    adata = report_file[1]
    heading = page.get_by_role("button", name="Pearson", exact=True)
    heading.focus()
    page.keyboard.press("Enter")
    assert page.locator("th[aria-sort=descending]").inner_text() == "Pearson"
    found = numbers(column(page, "Pearson"))
    np.testing.assert_allclose(found, np.sort(adata.var["snrmix_pearson"])[::-1], atol=0.006)
    page.keyboard.press("Space")
    assert page.locator("th[aria-sort=ascending]").inner_text() == "Pearson"
    np.testing.assert_array_equal(numbers(column(page, "Pearson")), found[::-1])
    page.get_by_role("button", name="Gene", exact=True).click()
    assert [head.inner_text() for head in page.locator("th[aria-sort=ascending]").all()] == ["Gene"]
    names = column(page, "Gene")
    assert names.index("GRADIENT_01") < names.index("GRADIENT_02") < names.index("MIXED_01")
    assert "by gene, lowest first" in page.locator("#count").inner_text()


def test_searching_and_filtering(page, report_file):
    var = report_file[1].var
    page.get_by_role("searchbox", name="Search").fill("gland")
    names = column(page, "Gene")
    assert names and all(name.startswith("GLAND") for name in names)
    page.get_by_role("searchbox", name="Search").fill("no such gene")
    assert column(page, "Gene") == []
    assert page.locator("#count").inner_text().startswith("0 of 40 genes")
    page.get_by_role("searchbox", name="Search").fill("")
    page.get_by_role("combobox", name="Show", exact=True).select_option("yes")
    assert set(column(page, "Gene")) == set(var.index[var["snrmix_reliable"]])
    assert set(column(page, "May be looked at")) == {"● yes"}
    page.get_by_role("combobox", name="Show", exact=True).select_option("all")
    page.get_by_role("spinbutton").fill("30")
    assert set(column(page, "Gene")) == set(var.index[var["snrmix_explained"] >= 0.3])


def test_readout_and_colours_are_the_values_at_the_spots(page, report_file):
    import matplotlib

    adata, gene = report_file[1], "GRADIENT_01"
    page.get_by_role("combobox", name="Gene", exact=True).select_option(label=gene)
    page.get_by_role("slider", name="Colours over tissue").fill("100")
    slide = page.evaluate("CONTENT.maps.slides[0]")
    scale = page.evaluate(f"CONTENT.maps.genes.find((gene) => gene.n === {gene!r}).s[0].v")
    box = map_box(page)
    zoom = min(box["width"] / slide["width"], box["height"] / slide["height"])
    spots = adata.obsm["spatial"] * adata.uns["snrmix"]["image"]["um_per_px"][0] / slide["um"] * zoom
    spots = spots - (spots.min(0) + spots.max(0)) / 2 + [box["width"] / 2, box["height"] / 2]
    measured = adata.obs["snrmix_measured"].to_numpy()
    imputed = adata.obs_vector(gene, layer="snrmix")
    unmeasured = np.flatnonzero(~measured)
    right = unmeasured[np.argsort(spots[unmeasured, 0])[-3:]]
    left = np.flatnonzero(measured)[np.argsort(spots[measured, 0])[:3]]
    for at, spot in enumerate([*right, *left]):
        x, y = spots[spot]
        page.mouse.move(box["x"] + x, box["y"] + y)
        said = page.locator("#readout").inner_text()
        word = "imputed" if at < 3 else "measured"
        assert float(re.search(rf"{word} (\d+\.\d+)", said)[1]) == pytest.approx(imputed[spot], abs=0.02)
        colour = page.evaluate(
            f"[...document.getElementById('map').getContext('2d').getImageData({x}, {y}, 1, 1).data]"
        )
        part = np.clip((imputed[spot] - scale[2]) / (scale[3] - scale[2]), 0, 1)
        expected = np.array(matplotlib.colormaps["viridis"](part)[:3]) * 255
        np.testing.assert_allclose(colour[:3], expected, atol=9)


def test_divider_by_keyboard_and_mouse(page):
    divider = page.get_by_role("slider", name="Divider")
    before = pixels(page)
    divider.focus()
    for _ in range(30):
        page.keyboard.press("ArrowLeft")
    assert divider.input_value() == "20"
    assert "20 % Measured, the rest Imputed" in divider.get_attribute("aria-valuetext")
    drawn(page)
    assert pixels(page) != before
    box = map_box(page)
    page.mouse.move(box["x"] + 0.2 * box["width"], box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(box["x"] + 0.7 * box["width"], box["y"] + box["height"] / 2, steps=4)
    page.mouse.up()
    assert divider.input_value() == "70"
    page.get_by_role("combobox", name="Left", exact=True).select_option("sd")
    assert page.locator("#tag-left").inner_text() == "Uncertainty"
    assert page.locator(".legend .name").all_inner_texts()[1].startswith("Uncertainty")
    page.get_by_role("combobox", name="Right", exact=True).select_option("truth")
    assert page.locator("#tag-right").inner_text() == "Measured, with hidden spots"


def test_zoom_and_scale_bar(page):
    stage, scale = page.locator("#stage"), page.locator("#scale")

    def length() -> float:
        """Micrometres per pixel of the screen, by the bar."""
        value, unit = scale.inner_text().split()
        width = scale.locator("span").bounding_box()["width"]
        return float(value) * {"µm": 1, "mm": 1000}[unit] / width

    width = page.evaluate("CONTENT.maps.slides[0].um * CONTENT.maps.slides[0].width")
    height = page.evaluate("CONTENT.maps.slides[0].um * CONTENT.maps.slides[0].height")
    box = map_box(page)
    whole = length()
    assert whole == pytest.approx(max(width / box["width"], height / box["height"]), rel=0.02)
    page.get_by_role("button", name="Zoom in").click()
    drawn(page)
    assert length() == pytest.approx(whole / 1.5, rel=0.03)
    stage.focus()
    page.keyboard.press("+")
    drawn(page)
    assert float(stage.get_attribute("data-zoom")) == 2.25
    before = pixels(page)
    page.keyboard.press("ArrowDown")
    drawn(page)
    assert pixels(page) != before, "the map has moved"
    page.keyboard.press("0")
    drawn(page)
    assert float(stage.get_attribute("data-zoom")) == 1
    assert length() == pytest.approx(whole, rel=0.02)
    box = map_box(page)
    page.mouse.move(box["x"] + 300, box["y"] + 200)
    page.keyboard.down("Control")
    page.mouse.wheel(0, -200)
    until(page, "document.getElementById('stage').dataset.zoom > 1.5")
    page.keyboard.up("Control")


def test_a_gene_of_the_table_is_shown_as_a_map(page):
    page.get_by_role("button", name="Show the map of MIXED_01").click()
    assert page.locator("#gene-said strong").inner_text() == "MIXED_01"
    assert page.evaluate("document.activeElement.id") == "stage"
    page.get_by_role("button", name="Next gene").click()
    assert page.locator("#gene-said strong").inner_text() != "MIXED_01"


def test_keyboard_and_screen_reader(page):
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
    assert page.locator(".skip").bounding_box()["x"] >= 0
    style = page.evaluate(
        "getComputedStyle(document.activeElement).outlineStyle + getComputedStyle(document.activeElement).outlineWidth"
    )
    assert style == "solid3px"
    for landmark in ("banner", "navigation", "main", "contentinfo", "search"):
        assert page.get_by_role(landmark).count() == 1, landmark
    levels = [
        int(tag[1]) for tag in page.evaluate("[...document.querySelectorAll('h1, h2, h3, h4')].map((h) => h.tagName)")
    ]
    assert levels[0] == 1 and levels.count(1) == 1 and max(np.diff(levels)) <= 1
    assert (
        page.evaluate("""[...document.querySelectorAll('canvas, svg:not([aria-hidden]), img')]
        .filter((one) => one.getAttribute('role') !== 'img' || !one.getAttribute('aria-label')).length""")
        == 0
    )
    assert page.evaluate("[...document.querySelectorAll('table')].filter((one) => !one.caption).length") == 0
    assert page.evaluate("[...document.querySelectorAll('th')].filter((one) => !one.scope).length") == 0
    assert (
        page.evaluate("[...document.querySelectorAll('select, input')].filter((one) => !one.labels.length).length") == 0
    )
    assert (
        page.evaluate("""[...document.querySelectorAll('button')]
        .filter((one) => !(one.getAttribute('aria-label') || one.textContent.trim())).length""")
        == 0
    )
    assert page.evaluate("[...document.querySelectorAll('.scroll, pre')].filter((one) => one.tabIndex < 0).length") == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_phone(visit, report_file, scheme):
    page = visit(
        report_file[0], viewport={"width": 390, "height": 844}, is_mobile=True, has_touch=True, color_scheme=scheme,
        device_scale_factor=2,
    )  # fmt: skip
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    wide = page.evaluate("""[...document.querySelectorAll('main *, header *')].filter((one) => !one.closest('.scroll, pre, .stage, svg')
        && one.getBoundingClientRect().right > 391 && !one.classList.contains('skip')).map((one) => one.outerHTML.slice(0, 80))""")
    assert wide == []
    assert page.evaluate(CONTRAST) > 7
    small = page.evaluate("""[...document.querySelectorAll('button, select, input:not([type=checkbox])')]
        .filter((one) => one.offsetParent && one.getBoundingClientRect().height < 24).map((one) => one.outerHTML)""")
    assert small == [], "too small for a finger"


CONTRAST = """(() => {
  const light = (text) => text.match(/[\\d.]+/g).slice(0, 3).map((v) => v / 255)
    .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const style = getComputedStyle(document.body);
  const [a, b] = [light(style.color), light(style.backgroundColor)].sort();
  return (b + 0.05) / (a + 0.05);
})()"""


def test_print(page):
    page.emulate_media(media="print")
    for hidden in (".controls", ".sliders", ".zoom", "nav", ".card button", "#gene-table td.show"):
        assert not page.locator(hidden).first.is_visible(), hidden
    for shown in ("#map", ".card canvas", ".verdict", "#gene-table tbody tr", "pre"):
        assert page.locator(shown).first.is_visible(), shown
    assert page.evaluate("getComputedStyle(document.querySelector('.tall')).overflow") == "visible"
    assert page.pdf(format="A4").startswith(b"%PDF")


def without_depth(tissue, impute):
    counts = tissue.X.toarray()
    tissue.X = np.log1p(1e4 * counts / counts.sum(1, keepdims=True))
    impute(tissue, units="log")
    return tissue


def of_two_slides(tissue, impute):
    other = tissue[:60].copy()
    other.obs_names = other.obs_names + "-b"
    other.obs["library_id"] = "other/1"
    both = anndata.concat([tissue, other], merge="same")
    section = tissue.uns["spatial"]["synthetic"]
    both.uns["spatial"] = {"synthetic": section, "other/1": section}
    impute(both)
    return both


def as_spatialdata(tissue, impute):
    sdata = snrmix.datasets.synthetic_spatialdata(9, 40, image_px_per_pitch=16)
    impute(sdata)
    return sdata


def predicted(tissue, impute):
    model = snrmix.SNRMix(encoder="colour", max_epochs=2, n_folds=2, genes=20)
    model.fit(tissue)
    return model.predict(tissue)


def on_a_denser_grid(tissue, impute):
    dense = snrmix.pp.fill_grid(tissue, factor=2)
    impute(dense)
    return dense


def without_image(tissue, impute):
    del tissue.uns["spatial"]
    tissue.obsm["features"] = np.random.default_rng(0).standard_normal((tissue.n_obs, 4))
    impute(tissue, use_rep="features")
    return tissue


KINDS = {  # what the page says, and which maps it has
    without_depth: ("as given (log)", ["Measured", "Imputed", "Uncertainty", "Tissue alone"]),
    of_two_slides: ("Slide other/1", ["Measured", "Imputed", "Uncertainty", "Tissue alone"]),
    as_spatialdata: ("Visium", ["Measured", "Imputed", "Uncertainty", "Tissue alone"]),
    predicted: ("those of the sections that the model was made from", ["Imputed", "Uncertainty", "Tissue alone"]),
    on_a_denser_grid: ("Small: added between spots", ["Measured", "Imputed", "Uncertainty", "Tissue alone"]),
    without_image: ("those in obsm['features']", ["Measured", "Imputed", "Uncertainty"]),
}


@pytest.mark.parametrize("make", KINDS, ids=lambda make: make.__name__)
def test_every_kind_of_result(make, tissue, impute, visit, tmp_path):
    says, maps = KINDS[make]
    page = visit(snrmix.pl.report(make(tissue, impute), tmp_path / "report.html"))
    assert says in page.locator("body").inner_text()
    assert page.locator("#left option").all_inner_texts() == maps
    assert page.locator("#gene-table tbody tr").count() == 20
    assert "NaN" not in page.locator("body").inner_text() and "None" not in page.locator("main").inner_text()
    if make is of_two_slides:
        page.get_by_role("combobox", name="Slide", exact=True).select_option(label="other/1")
        assert "on other/1" in page.locator("#map").get_attribute("aria-label")
    if make is without_depth:
        assert "depth" not in page.locator("#gene-table thead").inner_text()
