"""Public sections: downloaded from a local server, checked, kept whole or not at all; and equal to the published values."""

import hashlib
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import anndata as ad
import numpy as np
import pytest

import snrmix
from snrmix.datasets import download
from snrmix.datasets.download import PublicFile, fetch

CONTENT = b"gene\tcount\n" * 5000
SUM = hashlib.sha256(CONTENT).hexdigest()
FILE = PublicFile("tiny/counts.tsv", "owner/name/commit/data/counts.tsv", SUM, ("other.tsv",))


class Server(ThreadingHTTPServer):
    """Serves `content` by address; `behaviour` says what goes wrong; `asked` counts."""

    daemon_threads = True

    def __init__(self, content):
        super().__init__(("127.0.0.1", 0), Handler)
        self.content, self.behaviour, self.asked = content, "right", 0


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.asked += 1
        body = self.server.content(self.path.lstrip("/"))
        if body is None:
            self.send_error(404, "Not Found")
            return
        if self.server.behaviour == "changed":
            body = b"<html>log in first</html>"
        self.send_response(200)
        if self.server.behaviour != "cut without saying":
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if self.server.behaviour.startswith("cut") else body)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def serve(monkeypatch):
    """Start a server of `content(address)` and let snrmix download from there."""
    servers = []

    def start(content) -> Server:
        server = Server(content)
        servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setattr(download, "SITE", f"http://127.0.0.1:{server.server_port}")
        return server

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture
def tiny(serve):
    return serve(lambda address: CONTENT if address == FILE.address else None)


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    """An empty cache, and no folder of data."""
    monkeypatch.setenv("SNRMIX_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("SNRMIX_DATA", raising=False)
    return tmp_path / "cache"


def kept(cache: Path) -> list[str]:
    return sorted(str(path.relative_to(cache)) for path in cache.rglob("*") if path.is_file())


def assert_one_sentence(message: str, *parts: str):
    assert "\n" not in message and "Traceback" not in message
    for part in (*parts, "counts.tsv"):
        assert part in message


def test_a_file_is_downloaded_once_and_kept(tiny, cache):
    assert fetch(FILE).read_bytes() == CONTENT
    assert kept(cache) == [FILE.place] and list(cache.rglob(".*")) == []
    assert fetch(FILE) == cache / FILE.place
    assert tiny.asked == 1


def test_the_cache_of_the_user_is_the_default(monkeypatch, tmp_path):
    monkeypatch.delenv("SNRMIX_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert download.cache_folder().name == "snrmix"
    if sys.platform == "linux":
        assert download.cache_folder().parent == tmp_path


@pytest.mark.parametrize("place", [FILE.place, f"public/{FILE.place}", "other.tsv"])
def test_a_folder_of_data_may_have_it(place, tmp_path, monkeypatch):
    monkeypatch.setenv("SNRMIX_DATA", str(tmp_path / "data"))
    path = tmp_path / "data" / place
    path.parent.mkdir(parents=True)
    path.write_bytes(CONTENT)
    assert fetch(FILE) == path


def test_another_file_of_that_name_is_passed_over_and_named(tiny, cache, tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("SNRMIX_DATA", str(tmp_path))
    (tmp_path / "other.tsv").write_bytes(b"something else")
    assert fetch(FILE) == cache / FILE.place
    assert str(tmp_path / "other.tsv") in caplog.text and "passed over" in caplog.text
    assert (tmp_path / "other.tsv").read_bytes() == b"something else"


def test_a_damaged_copy_in_the_cache_is_replaced(tiny, cache):
    (cache / "tiny").mkdir(parents=True)
    (cache / FILE.place).write_bytes(CONTENT[:100])
    assert fetch(FILE).read_bytes() == CONTENT


def test_what_is_not_the_published_file_is_refused(tiny, cache):
    tiny.behaviour = "changed"
    with pytest.raises(ValueError, match="is not the published file") as caught:
        fetch(FILE)
    assert_one_sentence(str(caught.value), FILE.address, SUM, "try again", str(cache / FILE.place), "SNRMIX_DATA")
    assert kept(cache) == []


@pytest.mark.parametrize("how", ["cut", "cut without saying"])
def test_a_cut_transfer_leaves_nothing(tiny, cache, how):
    tiny.behaviour = how
    with pytest.raises((ConnectionError, ValueError)) as caught:
        fetch(FILE)
    assert_one_sentence(str(caught.value), FILE.address, "try again")
    assert kept(cache) == []
    tiny.behaviour = "right"
    assert fetch(FILE).read_bytes() == CONTENT


def test_a_file_that_is_gone(serve, cache):
    serve(lambda address: None)
    with pytest.raises(ConnectionError, match="404 Not Found") as caught:
        fetch(FILE)
    assert_one_sentence(str(caught.value), FILE.address)
    assert kept(cache) == []


def test_no_network(cache, monkeypatch):
    monkeypatch.setattr(download, "SITE", "http://127.0.0.1:9")  # nothing listens there
    with pytest.raises(ConnectionError, match="no connection") as caught:
        fetch(FILE)
    assert_one_sentence(str(caught.value), FILE.address, str(cache / FILE.place), "SNRMIX_DATA")
    assert kept(cache) == []


def test_a_cache_that_cannot_be_written(tiny, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("SNRMIX_CACHE", str(tmp_path / "file"))
    with pytest.raises(OSError, match="cannot be written") as caught:
        fetch(FILE)
    assert_one_sentence(str(caught.value), "SNRMIX_CACHE", "SNRMIX_DATA")
    assert tiny.asked == 0


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="permissions do not stop this user")
def test_a_read_only_cache(tiny, cache):
    fetch(FILE)
    for path in (cache / "tiny", cache):
        path.chmod(0o555)
    try:
        assert fetch(FILE).read_bytes() == CONTENT
        with pytest.raises(OSError, match="cannot be written"):
            fetch(PublicFile("tiny/more.tsv", "x/more.tsv", SUM))
    finally:
        for path in (cache, cache / "tiny"):
            path.chmod(0o755)


def test_two_processes_at_once(tiny, cache):
    program = (
        f"from snrmix.datasets import download; download.SITE = {download.SITE!r}; "
        f"print(download.fetch(download.{FILE!r}).stat().st_size)"
    )
    runs = [
        subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    for run in runs:
        out, err = run.communicate(timeout=120)
        assert run.returncode == 0, err
        assert out.strip() == str(len(CONTENT))
    assert kept(cache) == [FILE.place] and (cache / FILE.place).read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("loader", "wrong", "there"),
    [("olfactory_bulb", 3, "1, 2"), ("olfactory_bulb", True, "1, 2"), ("her2_tumour", "A1", "B4")],
)
def test_a_section_that_is_not_there(loader, wrong, there):
    with pytest.raises(ValueError, match=there):
        getattr(snrmix.datasets, loader)(wrong)


# ---- the published files


@pytest.fixture
def published(serve, real_file):
    """A server that has the published files under their addresses."""
    public = real_file("public")
    scans = {"BT10737_D2_HE.jpg": "B4", "5714_HE_BT_C2.jpg": "C2", "5714_HE_BT_D1.jpg": "C3"}

    def content(address: str):
        owner, name = address.split("/")[1], address.rsplit("/", 1)[1]
        if name in scans:
            path = public.parent / f"st_her2_{scans[name]}.jpg"
        else:
            path = public / owner.lower() / name
        return path.read_bytes() if path.is_file() else None

    return serve(content)


def assert_published(adata, there):
    assert list(adata.obs_names) == list(there.obs_names) and list(adata.var_names) == list(there.var_names)
    assert adata.X.format == "csr" and adata.X.dtype == np.float32 and (adata.X != there.X).nnz == 0
    np.testing.assert_array_equal(adata.obsm["spatial"], there.obsm["spatial"])
    for column in ("array_row", "array_col"):
        np.testing.assert_array_equal(adata.obs[column], there.obs[column])


@pytest.mark.parametrize("number", [1, 2])
def test_olfactory_bulb(published, real_file, cache, number):
    adata = snrmix.datasets.olfactory_bulb(number)
    there = ad.read_h5ad(real_file(f"st_mob_{number}.h5ad"))
    assert_published(adata, there)
    (old,) = there.uns["spatial"].values()
    stored = adata.uns["spatial"][f"MOB{number}"]
    np.testing.assert_array_equal(stored["images"]["hires"], old["images"]["hires"])
    assert stored["scalefactors"]["tissue_hires_scalef"] == 1.0
    assert adata.var["symbol"].is_unique and adata.var.at["ENSMUSG00000045573.9", "symbol"] == "Penk"
    assert published.asked == 3 and len(kept(cache)) == 3


def test_her2_tumour(published, real_file, cache):
    adata = snrmix.datasets.her2_tumour("B4")
    there = ad.read_h5ad(real_file("st_her2_B4.h5ad"))
    assert_published(adata, there)
    assert list(adata.obs["patient"].unique()) == ["B"] and list(adata.obs["library_id"].unique()) == ["B4"]
    stored, (old,) = adata.uns["spatial"]["B4"], there.uns["spatial"].values()
    assert stored["images"]["fullres"] == str(cache / "her2st" / "B4.jpg")
    new, old = stored["images"]["hires"].astype(int), old["images"]["hires"].astype(int)
    assert new.shape == old.shape and abs(new - old).mean() < 4
    assert published.asked == 3


@pytest.mark.parametrize("name", ["C2", "C3"])
def test_her2_tumour_from_a_folder_of_data(real_file, monkeypatch, name):
    folder = real_file("public").parent
    monkeypatch.setenv("SNRMIX_DATA", str(folder))
    monkeypatch.setattr(download, "SITE", "http://127.0.0.1:9")
    adata = snrmix.datasets.her2_tumour(name)
    assert_published(adata, ad.read_h5ad(real_file(f"st_her2_{name}.h5ad")))
    assert adata.uns["spatial"][name]["images"]["fullres"] == str(folder / f"st_her2_{name}.jpg")


def test_the_full_image_is_what_is_read(real_file, monkeypatch):
    monkeypatch.setenv("SNRMIX_DATA", str(real_file("public").parent))
    said = str(snrmix.io.describe(snrmix.datasets.her2_tumour("C3")))
    assert "st_her2_C3.jpg (0.686 um per px)" in " ".join(said.split())


def test_a_public_section_is_imputed_as_it_is(real_file, monkeypatch, fast):
    monkeypatch.setenv("SNRMIX_DATA", str(real_file("public").parent))
    adata = snrmix.datasets.olfactory_bulb(1)
    snrmix.tl.impute(adata, **fast)
    assert adata.uns["snrmix"]["image"]["um_per_px"][0] == pytest.approx(6.18, abs=0.05)
    assert np.isfinite(adata.layers["snrmix"]).any(0).sum() == fast["genes"]
