"""Units on their way through a cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from snrmix.tl._cohort_unit import Unit, sentence


def finished(client, units: Sequence[Unit], work: Callable, threads: int | None) -> Iterator[list[dict]]:
    """Records of units as they are finished, in whatever order; what is left when the caller stops is cancelled.

    A unit whose worker is lost is sent to another one, as often as the scheduler's ``allowed-failures`` says (3).
    """
    from distributed import as_completed
    from distributed.scheduler import KilledWorker

    sent = {client.submit(work, unit, threads, pure=False): unit for unit in units}
    try:
        for future in as_completed(list(sent)):
            unit = sent[future]
            error = future.exception()
            if error is None:
                yield future.result()
                continue
            lost = isinstance(error, KilledWorker)
            said = "its worker was lost several times; is its memory too small?" if lost else sentence(error)
            yield [{"sample": sample.name, "status": "failed", "error": said} for sample in unit.samples]
    finally:
        client.cancel(list(sent), force=True)
