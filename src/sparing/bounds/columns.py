"""Opening a CSV or Parquet table and reading chosen columns, whole or batch by batch."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from sparing.errors import InputError
from sparing.storage.files import local

BATCH_VALUES = 1 << 23
"""How many cells of a Parquet file are decoded together."""


class Table:
    """A CSV or Parquet file, recognised by the bytes it starts with.

    In a CSV file, which may be compressed, an empty cell is a missing value and every other text stands for
    itself. A CSV file is read whole when its rows are first asked for.

    Args:
        path: the file.

    Attributes:
        path: the file.
        names: its column names, in order.

    Raises:
        InputError: the file does not exist, is neither CSV nor Parquet, or has a column name twice.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        with _arrow_errors(self.path, "is neither a CSV nor a Parquet table"):
            with self.path.open("rb") as file:
                parquet = file.read(4) == b"PAR1"
            self._parquet = pq.ParquetFile(local(self.path)) if parquet else None
            schema = self._parquet.schema_arrow if self._parquet else pyarrow.csv.open_csv(self.path).schema
        self.names: list[str] = list(schema.names)
        twice = {name for name in self.names if self.names.count(name) > 1}
        if twice:
            raise InputError(f"{path}: column {min(twice)!r} occurs twice")

    @cached_property
    def rows(self) -> int:
        """How many rows there are."""
        return int(self._parquet.metadata.num_rows if self._parquet else self._csv.num_rows)

    def need(self, *columns: str) -> None:
        """Raise InputError unless all these columns are there."""
        missing = [column for column in columns if column not in self.names]
        if missing:
            raise InputError(
                f"{self.path}: there is no column {missing[0]!r}; the columns are {listed(self.names)}"
            )

    def read(self, columns: Sequence[str]) -> pa.Table:
        """Read some columns whole."""
        with _arrow_errors(self.path, "is damaged"):
            return self._parquet.read(list(columns)) if self._parquet else self._csv.select(list(columns))

    def batches(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """Read some columns, of a Parquet file about `BATCH_VALUES` cells at a time.

        Args:
            columns: names of columns that are there.

        Yields:
            Batches in the order of the rows, their columns in the order asked for.

        Raises:
            InputError: the file is damaged.
        """
        if self._parquet is None:
            yield from self._csv.select(list(columns)).to_batches()
            return
        size = max(1, BATCH_VALUES // max(1, len(columns)))
        with _arrow_errors(self.path, "is damaged"):
            for batch in self._parquet.iter_batches(batch_size=size, columns=list(columns)):
                yield batch.select(list(columns))

    @cached_property
    def _csv(self) -> pa.Table:
        convert = pyarrow.csv.ConvertOptions(null_values=[""], strings_can_be_null=True)
        with _arrow_errors(self.path, "is not a CSV table"):
            return pyarrow.csv.read_csv(local(self.path), convert_options=convert)


def listed(names: Sequence[object], most: int = 6) -> str:
    """Format the first few names for a message, and how many more there are."""
    text = ", ".join(str(name) for name in names[:most])
    return text if len(names) <= most else f"{text} and {len(names) - most} more"


@contextmanager
def _arrow_errors(path: Path, problem: str) -> Iterator[None]:
    try:
        yield
    except pa.ArrowException as error:
        raise InputError(f"{path}: {problem}: {error}") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error
