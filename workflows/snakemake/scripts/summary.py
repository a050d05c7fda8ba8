"""One row per sample, from what `snrmix impute --json` said of it."""

import csv
import json
from pathlib import Path

records = {Path(path).stem: json.loads(Path(path).read_text()) for path in snakemake.input}  # noqa: F821
rows = [
    {
        "sample": sample,
        **record["scores"],
        "seconds": round(sum(record["seconds"].values()), 1),
        "warnings": " | ".join(record["warnings"]),
    }
    for sample, record in records.items()
]
columns = list(dict.fromkeys(name for row in rows for name in row))
with open(snakemake.output[0], "w", newline="") as file:  # noqa: F821
    writer = csv.DictWriter(file, columns)
    writer.writeheader()
    writer.writerows(rows)
