"""metrics.csv of a run, a row a logged step, none lost and none twice; TensorBoard has the same."""

import contextlib
import csv
import io
import time
import uuid
from pathlib import Path

from absl import logging

from dpm_jax import files


class MetricsFile:
    """metrics.csv of a run: one row a logged step; what training repeats is written again.

    Args:
        path: of the file.
        start: step from which training goes on; rows beyond it will come again, to the bit.
    """

    FIELDS = ("step", "seconds", "K_bits", "grad_norm", "skipped")

    def __init__(self, path, start: int):
        self.path = Path(path)
        before = self.path.read_bytes() if self.path.exists() else b""
        rows, whole = self._parse(before)
        if not whole:
            aside = files.free_name(self.path.with_name("metrics-altered.csv"))
            aside.write_bytes(before)
            logging.warning(
                "%s was altered: its %d rows that read are kept, and the file as it was is %s",
                self.path, len(rows), aside.name,
            )  # fmt: skip
        self.rows = [row for row in rows if int(row["step"]) <= start]
        text = io.StringIO(newline="")
        csv.writer(text).writerows([self.FIELDS, *(row.values() for row in self.rows)])
        if text.getvalue().encode() != before:
            with files.replacing(self.path) as temporary:
                temporary.write_bytes(text.getvalue().encode())

    def _parse(self, content: bytes) -> tuple[list[dict[str, str]], bool]:
        """The rows that read, by rising step; and whether the file is as this program left it.

        A kill may leave half a line at the end; spreadsheets change header, commas and quotes.
        """
        lines = content.decode("utf-8-sig", "replace").splitlines(keepends=True)
        lines = [line.strip() for line in lines if line.endswith(("\n", "\r"))]
        rows: dict[int, dict[str, str]] = {}
        for line in lines:
            comma = next((c for c in ";\t," if c in line), ",")
            cells = [cell.strip() for cell in next(csv.reader([line], delimiter=comma), [])]
            if comma != ",":
                cells = [cell.replace(",", ".") for cell in cells]
            with contextlib.suppress(ValueError, OverflowError):
                numbers = [float(cell) for cell in cells]
                if len(numbers) == len(self.FIELDS) and numbers[0] == int(numbers[0]) >= 0:
                    step = int(numbers[0])
                    rows[step] = dict(zip(self.FIELDS, [str(step), *cells[1:]]))
        found = [rows[step] for step in sorted(rows)]
        written = [",".join(line) for line in (self.FIELDS, *(row.values() for row in found))]
        return found, lines in ([], written)

    def seconds_at(self, step: int) -> float:
        """Training time that the run had taken at the last row up to `step`."""
        seconds = [float(row["seconds"]) for row in self.rows if int(row["step"]) <= step]
        return seconds[-1] if seconds else 0.0

    def append(self, **values) -> dict[str, str]:
        """Add one row, on disk at once; the row."""
        row = {name: str(values[name]) for name in self.FIELDS}
        with self.path.open("a", newline="", encoding="utf-8") as file:
            csv.writer(file).writerow(row.values())
        self.rows.append(row)
        return row


class Board:
    """TensorBoard events of a run: made anew from metrics.csv at each start, flushed at each row.

    Args:
        folder: of the events; those of former starts are replaced, other files stay.
        rows: of metrics.csv up to now.
    """

    SUFFIX = ".dpm_jax"
    _NAMES = ("K_bits", "grad_norm", "skipped")

    def __init__(self, folder: Path, rows: list[dict[str, str]]):
        from tensorboardX.event_file_writer import EventsWriter

        folder.mkdir(exist_ok=True)
        former = list(folder.glob(f"events.out.tfevents.*{self.SUFFIX}"))
        # A name of its own: two starts in one second would share the time in it.
        self._writer = EventsWriter(str(folder / "events"), f".{uuid.uuid4().hex}{self.SUFFIX}")
        last = float(rows[-1]["seconds"]) if rows else 0.0
        for row in rows:
            self._write(row, time.time() - last + float(row["seconds"]))
        self._writer.flush()
        for path in former:
            path.unlink(missing_ok=True)

    def add(self, row: dict[str, str]) -> None:
        """One row, on disk at once."""
        self._write(row, time.time())
        self._writer.flush()

    def close(self) -> None:
        """Close the file."""
        self._writer.close()

    def _write(self, row: dict[str, str], seconds: float) -> None:
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.summary import scalar

        for name in self._NAMES:
            event = Event(step=int(row["step"]), wall_time=seconds)
            event.summary.CopyFrom(scalar(name, float(row[name])))
            self._writer.write_event(event)
