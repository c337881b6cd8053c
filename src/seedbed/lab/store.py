"""Where an experiment keeps its rows: JSON lines while it runs, Parquet once it is whole."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import filelock

from seedbed.errors import BadInput, BadRecord
from seedbed.files import write_bytes_atomically
from seedbed.lab.experiment import Row


class Store:
    """The folder of one experiment.

    recipe.json holds the recipe, rows.jsonl one line for each finished unit of work (a list of rows),
    rows.parquet all rows of a finished run, lock the lock of the process that writes.

    A line counts once its line break is there: whatever kills the writer, a unit is whole or not there. A row
    is known by its "key", and no key is returned twice, wherever a kill left it.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        self.recipe = self.folder / "recipe.json"
        self.lines = self.folder / "rows.jsonl"
        self.parquet = self.folder / "rows.parquet"

    def rows(self) -> list[Row]:
        """All finished rows, those of the Parquet file first; a value that a row does not have is left out.

        Raises:
            BadRecord: a damaged line or file.
        """
        found: dict[str, Row] = {}
        if self.parquet.exists():
            import pyarrow.parquet

            try:
                table = pyarrow.parquet.read_table(self.parquet)
            except (pyarrow.ArrowException, OSError) as error:
                raise BadRecord(f"cannot read {self.parquet}: {str(error).splitlines()[0]}") from error
            for row in table.to_pylist():
                found[row["key"]] = {name: value for name, value in row.items() if value is not None}
        for number, line in enumerate(self._whole_lines().splitlines(), 1):
            try:
                for row in json.loads(line):
                    found.setdefault(row["key"], row)
            except (ValueError, TypeError, KeyError) as error:
                raise BadRecord(
                    f"{self.lines}, line {number} is damaged: delete the line and run again"
                ) from error
        return list(found.values())

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Own the folder, created if need be, and drop what a killed writer left unfinished.

        The system lets go of the lock when its process ends, however it ends.

        Raises:
            BadInput: another process owns the folder, it is not an experiment's, or the system refuses.
        """
        with ExitStack() as stack:
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                ours = {self.folder / "lock", *self.folder.glob(".*.tmp")}
                others = sorted(path.name for path in set(self.folder.iterdir()) - ours)
                if others and not self.recipe.exists():
                    raise BadInput(
                        f"{self.folder} is not an experiment's folder, it holds {others[0]}: choose another"
                    )
                stack.enter_context(filelock.FileLock(self.folder / "lock", timeout=0))
                for path in self.folder.glob(".*.tmp"):
                    path.unlink()
                if self.lines.exists():
                    os.truncate(self.lines, len(self._whole_lines()))
            except filelock.Timeout:
                raise BadInput(
                    f"another run is at work in {self.folder}: wait for it, or choose another folder"
                ) from None
            except OSError as error:
                raise BadInput(f"cannot write in {self.folder}: {error.strerror or error}") from error
            yield

    def append(self, rows: Sequence[Row]) -> None:
        """Add the rows of one unit; only inside `writing`. Raises `BadInput` where the disk is full."""
        try:
            with open(self.lines, "ab") as file:
                file.write(json.dumps(rows).encode() + b"\n")
        except OSError as error:
            raise BadInput(
                f"cannot write {self.lines}: {error.strerror or error}; what is finished is kept, run again"
            ) from error

    def finish(self, keys: Sequence[str]) -> None:
        """Turn all rows into the Parquet file, in the order of their keys; only inside `writing`.

        Raises:
            BadInput: a column whose values are of different kinds, or a full disk.
        """
        import pyarrow.parquet

        rows = {row["key"]: row for row in self.rows()}
        names = dict.fromkeys(name for key in keys for name in rows[key])
        columns = {}
        for name in names:
            try:
                columns[name] = pyarrow.array([rows[key].get(name) for key in keys])
            except pyarrow.ArrowException as error:
                raise BadInput(f"the column {name!r} holds values of different kinds") from error
        sink = pyarrow.BufferOutputStream()
        pyarrow.parquet.write_table(pyarrow.table(columns), sink)
        write_bytes_atomically(self.parquet, sink.getvalue().to_pybytes())
        self.lines.unlink(missing_ok=True)

    def _whole_lines(self) -> bytes:
        """The file up to its last line break."""
        content = self.lines.read_bytes() if self.lines.exists() else b""
        return content[: content.rfind(b"\n") + 1]
