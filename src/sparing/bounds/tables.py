"""Opening a CSV or Parquet table and reading chosen columns, whole or batch by batch."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from sparing.errors import InputError

BATCH_VALUES = 1 << 23
"""How many cells of a Parquet file are decoded together."""


class Table:
    """A CSV or Parquet file, told apart by the bytes it starts with.

    In a CSV file an empty cell is a missing value; every other text stands for itself.

    Args:
        path: the file.

    Attributes:
        path: the file.
        names: its column names, in order.
        rows: how many rows it has.

    Raises:
        InputError: the file does not exist, is neither CSV nor Parquet, or has a column name twice.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        try:
            with self.path.open("rb") as file:
                self._parquet = file.read(4) == b"PAR1"
            self._source = pq.ParquetFile(self.path) if self._parquet else _read_csv(self.path)
        except OSError as error:
            raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error
        except pa.ArrowInvalid as error:
            raise InputError(f"{path}: is neither a CSV nor a Parquet table: {error}") from error
        self._schema = self._source.schema_arrow if self._parquet else self._source.schema
        self.names: list[str] = list(self._schema.names)
        self.rows: int = self._source.metadata.num_rows if self._parquet else self._source.num_rows
        twice = {name for name in self.names if self.names.count(name) > 1}
        if twice:
            raise InputError(f"{path}: column {min(twice)!r} occurs twice")

    def need(self, *columns: str) -> None:
        """Raise InputError unless all these columns are there."""
        missing = [column for column in columns if column not in self.names]
        if missing:
            raise InputError(
                f"{self.path}: there is no column {missing[0]!r}; the columns are {listed(self.names)}"
            )

    def read(self, columns: Sequence[str]) -> pa.Table:
        """Read some columns whole."""
        schema = pa.schema([self._schema.field(column) for column in columns])
        return pa.Table.from_batches(self.batches(columns), schema=schema)

    def batches(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """Read some columns, about `BATCH_VALUES` cells at a time.

        Args:
            columns: names of columns that are there.

        Yields:
            Batches in the order of the rows.

        Raises:
            InputError: the file is damaged.
        """
        try:
            if self._parquet:
                size = max(1, BATCH_VALUES // max(1, len(columns)))
                for batch in self._source.iter_batches(batch_size=size, columns=list(columns)):
                    yield batch.select(list(columns))
            else:
                yield from self._source.select(list(columns)).to_batches()
        except (pa.ArrowInvalid, OSError) as error:
            raise InputError(f"{self.path}: is damaged: {error}") from error


def listed(names: Sequence[object], most: int = 6) -> str:
    """The first few names for a message, and how many more there are."""
    text = ", ".join(str(name) for name in names[:most])
    return text if len(names) <= most else f"{text} and {len(names) - most} more"


def _read_csv(path: Path) -> pa.Table:
    convert = pyarrow.csv.ConvertOptions(null_values=[""], strings_can_be_null=True)
    return pyarrow.csv.read_csv(path, convert_options=convert)
