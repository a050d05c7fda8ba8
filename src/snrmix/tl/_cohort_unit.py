"""What a worker does: one sample, or samples that share a model, from their files to their results."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import psutil

import snrmix
from snrmix._log import kept_warnings, logger
from snrmix.data.figures import figures_of
from snrmix.data.paths import read_path
from snrmix.data.save import check_target, keep_modelled, write_section, write_text
from snrmix.data.table import read_table
from snrmix.data.words import read_genes
from snrmix.plan.threads import limited_threads
from snrmix.tl._cohort_sheet import LIBRARY, Sample

ONE_AT_A_TIME = threading.Lock()  # a worker with several threads would need the memory of several samples
CHUNK = 1 << 22


@dataclass(frozen=True)
class Unit:
    """Samples that are imputed together.

    Parameters
    ----------
    samples
        One, or several that share a model.
    options
        Arguments of `snrmix.tl.impute`; those of the rows win.
    suffix, compression, modelled_only
        How results are stored.
    report
        Function that writes a page about a result, see `snrmix.tl.impute_cohort`; ``None``: no pages.
    """

    samples: tuple[Sample, ...]
    out: Path
    options: Mapping[str, object] = field(default_factory=dict)
    suffix: str = ".h5ad"
    compression: str = "gzip"
    modelled_only: bool = False
    report: Callable | None = None

    @property
    def name(self) -> str:
        """For logs."""
        return "+".join(sample.name for sample in self.samples)

    @property
    def key(self) -> str:
        """Name of the result in the objects."""
        return str(self.options.get("key_added", "snrmix"))

    def target(self, sample: Sample) -> Path:
        """Where the result of a sample goes."""
        return self.out / f"{sample.name}{self.suffix}"

    def record(self, sample: Sample) -> Path:
        """What is known of that result; it is written last."""
        return self.out / f"{sample.name}.json"

    def page(self, sample: Sample) -> Path:
        """Where the page about a result goes."""
        return self.out / f"{sample.name}.report.html"

    def arguments(self, sample: Sample) -> dict:
        """Arguments of a sample."""
        return {**self.options, **sample.arguments}


def digest(unit: Unit, known: Mapping[str, list] | None = None) -> tuple[str, dict[str, list]]:
    """What tells a run from another: content of the files, parameters, version.

    Parameters
    ----------
    known
        Of a former run: size, time and sum by path. Files whose size and time are the same are not read again.

    Returns
    -------
    tuple
        The sum, and sizes, times and sums by path.
    """
    files: dict[str, list] = {}
    told = []
    for sample in unit.samples:
        given = unit.arguments(sample)
        for path in [sample.path, *(Path(v) for v in given.values() if isinstance(v, Path))]:
            files |= _sums(path, known or {})
        told.append([sample.name, sample.bin_size, {k: v for k, v in given.items() if not isinstance(v, Path)}])
    stored = [unit.suffix, unit.compression, unit.modelled_only, snrmix.__version__]
    text = json.dumps([told, sorted(entry[2] for entry in files.values()), stored], sort_keys=True, default=repr)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest(), files


def _sums(path: Path, known: Mapping[str, list]) -> dict[str, list]:
    found = {}
    for file in [path] if path.is_file() else sorted(part for part in path.rglob("*") if part.is_file()):
        state = file.stat()
        entry = known.get(str(file), [None, None, ""])
        if entry[:2] != [state.st_size, state.st_mtime_ns]:
            entry = [state.st_size, state.st_mtime_ns, _sum(file)]
        found[str(file)] = entry
    return found


def _sum(path: Path) -> str:
    total = hashlib.blake2b(digest_size=16)
    with path.open("rb") as file:
        while block := file.read(CHUNK):
            total.update(block)
    return total.hexdigest()


def read_record(path: Path) -> dict:
    """What a former run left; empty where there is nothing that reads."""
    try:
        record = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def done(unit: Unit) -> list[dict] | None:
    """Records of a unit that a former run has done, with the same files and parameters; ``None``: it is to be done."""
    records = [read_record(unit.record(sample)) for sample in unit.samples]
    if not all(record.get("status") == "done" for record in records):
        return None
    if not all(unit.target(sample).exists() for sample in unit.samples):
        return None
    wanted, _ = digest(unit, records[0].get("files"))
    return records if all(record.get("digest") == wanted for record in records) else None


def run_unit(unit: Unit, threads: int | None = None) -> list[dict]:
    """Impute a unit and store the results; a failure is a record with its sentence.

    Returns
    -------
    list of dict
        For each sample: ``sample``, ``status`` (``"done"`` or ``"failed"``), ``error``, ``output``, ``report``, ``figures``,
        ``warnings``, ``seconds``, ``memory_gb`` (highest in use), ``digest``, ``files``.
    """
    with ONE_AT_A_TIME, limited_threads(threads), kept_warnings() as warnings, _Peak() as peak:
        started = time.perf_counter()
        try:
            key, files = digest(unit)
            figures = _impute(unit)
        except Exception as error:  # noqa: BLE001 (whatever a sample dies of, the others go on)
            records = [{"sample": s.name, "status": "failed", "error": sentence(error)} for s in unit.samples]
            key, files, figures = "", {}, [{}] * len(records)
        else:
            records = [
                {"sample": s.name, "status": "done", "output": str(unit.target(s)), **page_of(unit, s)}
                for s in unit.samples
            ]
    measured = {"seconds": round(time.perf_counter() - started, 1), "memory_gb": round(peak.bytes / 1e9, 2)}
    for record, sample, own in zip(records, unit.samples, figures, strict=True):
        record |= {"labels": dict(sample.labels), "figures": own, "warnings": list(warnings), **measured}
        if record["status"] == "done":
            whole = {**record, "digest": key, "files": files, "version": snrmix.__version__}
            write_text(json.dumps(whole, indent=1), unit.record(sample))
    return records


def sentence(error: BaseException) -> str:
    """The message of an error, in one line."""
    message = error.args[0] if isinstance(error, KeyError) and error.args else error
    text = " ".join(str(message).split())
    if isinstance(error, ValueError | KeyError | TypeError | OSError | ImportError):
        return text or type(error).__name__
    return f"unexpected {type(error).__name__}: {text}"


def _impute(unit: Unit) -> list[dict]:
    from snrmix.tl._cohort_share import impute_together

    for sample in unit.samples:
        check_target(unit.target(sample), force=True)
    if len(unit.samples) > 1:
        results = impute_together(unit)
    else:
        results = [_impute_alone(unit, unit.samples[0])]
    return [_store(unit, sample, data) for sample, data in zip(unit.samples, results, strict=True)]


def _impute_alone(unit: Unit, sample: Sample):
    """The section with its result."""
    data, arguments = read_path(sample.path, sample.bin_size), unit.arguments(sample)
    if isinstance(arguments.get("genes"), str):
        arguments["genes"] = read_genes(arguments["genes"], read_table(data, arguments.get("table_key")))
    snrmix.tl.impute(data, **arguments)
    return data


def _store(unit: Unit, sample: Sample, data) -> dict:
    """Write one result; its figures."""
    table_key = unit.arguments(sample).get("table_key")
    figures = figures_of(read_table(data, table_key), unit.key)
    write_page(unit, sample, data)  # which knows the counts of all genes
    data = keep_modelled(data, unit.key, table_key) if unit.modelled_only else data
    write_section(data, unit.target(sample), table_key=table_key, compression=unit.compression)
    return figures


def write_page(unit: Unit, sample: Sample, data=None) -> None:
    """Write the page about a result, where there is to be one; one that cannot be written is warned of.

    Parameters
    ----------
    data
        The section with its result; ``None``: as it is stored.
    """
    if unit.report is None:
        return
    given = unit.arguments(sample)
    options = {name: given[name] for name in ("image", "image_key", "library_key", "table_key") if name in given}
    if len(unit.samples) > 1:
        options["library_key"] = LIBRARY
    try:
        data = read_path(unit.target(sample)) if data is None else data
        unit.report(data, unit.page(sample), key=unit.key, title=sample.name, source=sample.path.name, **options)
    except Exception as error:  # noqa: BLE001 (the result is what counts)
        logger.warning("%s: the report could not be written: %s", sample.name, sentence(error))


def page_of(unit: Unit, sample: Sample) -> dict[str, str]:
    """For the record of a sample: the name of the page about its result, if there is to be one and it is there."""
    page = unit.page(sample)
    return {"report": page.name} if unit.report is not None and page.exists() else {}


class _Peak:
    """The most memory that the process uses while something goes on, looked at five times a second."""

    def __enter__(self):
        self.bytes, self._over, self._process = 0, threading.Event(), psutil.Process()
        self._watch = threading.Thread(target=self._look, daemon=True)
        self._watch.start()
        return self

    def _look(self):
        while True:
            self.bytes = max(self.bytes, self._process.memory_info().rss)
            if self._over.wait(0.2):
                return

    def __exit__(self, *_):
        self._over.set()
        self._watch.join()
