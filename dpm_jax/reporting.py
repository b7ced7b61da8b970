"""Units, tables and the files of a run: the one place where nats become bits.

K is a log likelihood (binomial) or log density (Gaussian) in nats per example, of the data as the
model sees them: scaled to unit variance. Higher is better. 8-bit bits/dim is a code length per
pixel value of the unscaled data; lower is better.
"""

import csv
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path

LN2 = math.log(2)


def bits(nats: float) -> float:
    """Nats to bits: divide by ln 2."""
    return nats / LN2


def bits_per_dim_8bit(K_nats: float, dims: int, scale: float) -> float:
    """8-bit bits/dim, log2(scale) − K/dims: what the K of scaled data is for unscaled grey levels.

    Args:
        K_nats: K of one example in nats, of data (levels − mean)/scale, uniformly dequantised.
        dims: number of pixel values of an example.
        scale: grey levels of the 256 that 1 unit of the scaled data is.

    Raises:
        ValueError: without a positive scale, since K alone does not determine bits/dim.
    """
    if scale is None or not scale > 0:
        raise ValueError(f"scale: expected grey levels above 0, got {scale}")
    return math.log2(scale) - bits(K_nats) / dims


def write_json(path, content: Mapping) -> None:
    """Write JSON whole or not at all: to a temporary file beside it, then renamed."""
    path = Path(path)
    temporary = path.with_name(path.name + ".partial")
    temporary.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    os.replace(temporary, path)


def or_null(value: float | None) -> float | None:
    """The value for JSON: null where it is unknown or not finite."""
    return None if value is None or not math.isfinite(value) else float(value)


class MetricsFile:
    """metrics.csv of a run: one row a logged step, appended; a resumed run repeats no row."""

    FIELDS = ("step", "seconds", "K_bits", "grad_norm", "skipped")

    def __init__(self, path):
        self.path = Path(path)
        self._drop_cut_line()
        rows = self.read()
        self.last_step = int(rows[-1]["step"]) if rows else -1
        if not rows:
            with self.path.open("w", newline="", encoding="utf-8") as file:
                csv.writer(file).writerow(self.FIELDS)

    def _drop_cut_line(self) -> None:
        """A kill may leave half a line: the next row must not be glued to it."""
        content = self.path.read_bytes() if self.path.exists() else b""
        whole = content[: content.rfind(b"\n") + 1]
        if whole != content:
            with self.path.open("r+b") as file:
                file.truncate(len(whole))

    def read(self) -> list[dict[str, str]]:
        """All whole rows."""
        if not self.path.exists():
            return []
        with self.path.open(newline="", encoding="utf-8") as file:
            return [row for row in csv.DictReader(file) if row.get("skipped") not in (None, "")]

    def seconds_at(self, step: int) -> float:
        """Training time that the run had taken at the last row up to `step`."""
        seconds = [float(row["seconds"]) for row in self.read() if int(row["step"]) <= step]
        return seconds[-1] if seconds else 0.0

    def append(self, **values) -> bool:
        """Add one row unless its step is there already; whether it was added."""
        if values["step"] <= self.last_step:
            return False
        with self.path.open("a", newline="", encoding="utf-8") as file:
            csv.writer(file).writerow([values[name] for name in self.FIELDS])
        self.last_step = values["step"]
        return True


def table(rows: list[tuple[str, ...]]) -> str:
    """Rows of text as an aligned table; the first row is the heading."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:]))]
        lines.append("  ".join(cells).rstrip())
    lines.insert(1, "-" * max(map(len, lines)))
    return "\n".join(lines)


def number(value: float | None, error: float | None = None, digits: int = 3) -> str:
    """A number with its standard error for a table; "–" where it is unknown."""
    if value == -math.inf:
        return "−inf"  # a fact about data without support, not an unknown
    if value is None or not math.isfinite(value):
        return "–"
    text = f"{value:.{digits}f}"
    return text if error is None or not math.isfinite(error) else f"{text} ± {error:.{digits}f}"
