"""metrics.csv of a run: a row a logged step, none lost and none twice."""

import csv
from pathlib import Path


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
