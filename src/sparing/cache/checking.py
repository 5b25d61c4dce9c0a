"""Damage to a cache: found by checksums, and undone by going back to the last whole version.

`_sparing/checksums` lists the size and the CRC-32 of every file that a commit wrote. Sizes are looked at when
a cache is opened, contents when all of it is read, and all of it by `check`.
"""

import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import lance

from sparing.cache.record import FOLDER
from sparing.errors import CacheError, CacheLockedError
from sparing.storage import checksums
from sparing.storage.checksums import Checksum, problem_of
from sparing.storage.files import files_below, local, make_folder, reason, sync, writing
from sparing.storage.locks import write_lock

WORK = "_sparing"
LIST = Path(WORK, "checksums")
ASIDE = Path(WORK, "damaged")

HINT = "latest_version_hint.json"
"""Where Lance notes the newest version; it changes with every commit, and is made again when missing."""

_MANIFEST = re.compile(r"(\d+)\.manifest")
_LAST = 2**64 - 1
"""Lance names the manifest of version v by this minus v, and earlier releases of it by v itself."""

_verified: dict[Path, tuple[int, int, int]] = {}
"""Size, time and inode of the files whose content this process has found right."""


@dataclass(frozen=True)
class Version:
    """One version of a cache on disk, and what is wrong with it.

    Attributes:
        number: its number.
        files: what it is made of, relative to the folder; its manifest alone where it cannot be opened.
        problems: what is wrong, by file; empty when it is whole.
    """

    number: int
    files: tuple[str, ...]
    problems: dict[str, str]


@dataclass(frozen=True)
class Check:
    """What a check found.

    Attributes:
        versions: every version on disk, oldest first.
        problems: what is wrong, by file, of all versions and of work in progress.
        unlisted: files without a checksum: written by an earlier version of Sparing, or their lines in the
            list are damaged.
        unreadable: lines of the list that are damaged, or that a kill has cut short.
        checked: how many files were read.
        bytes: how many bytes were read.
    """

    versions: tuple[Version, ...]
    problems: dict[str, str]
    unlisted: tuple[str, ...]
    unreadable: int
    checked: int
    bytes: int

    @property
    def last_whole(self) -> int | None:
        """The number of the newest version that is whole; None when there is none."""
        return max((version.number for version in self.versions if not version.problems), default=None)


def note_files(path: Path, files: Iterable[Path]) -> None:
    """Note the checksums of files that a commit wrote; those of unfinished work carry their own."""
    written = (file for file in files if WORK not in file.relative_to(path).parts and file.name != HINT)
    checksums.note(path, path / LIST, written)


def unnoted(path: Path, version: int) -> set[Path]:
    """Return the small files of a version without checksum: a kill came between its commit and their note."""
    manifest = _manifests(path).get(version)
    if manifest is None:
        return set()
    listed = checksums.load(path / LIST)
    return {path / name for name in _small_files(path, version, manifest) if listed and name not in listed}


def forget_missing(path: Path) -> None:
    """Leave files out of the list that are gone, after a compaction."""
    if (path / LIST).exists():
        checksums.keep(path / LIST, [_name(path, file) for file in files_below(path)])


def check(path: str | Path) -> Check:
    """Read every file of a cache, of all its versions and of work in progress, and compare checksums.

    Args:
        path: the cache.

    Raises:
        CacheError: there is no cache.
    """
    path = Path(path)
    manifests = _manifests(path)
    if not manifests:
        raise CacheError(f"{path} is not a cache: it has no versions")
    listed = checksums.load(path / LIST)
    found: dict[str, str | None] = {}

    def problems_of(names: Iterable[str]) -> dict[str, str]:
        for name in names:
            if name not in found:
                here = path / name
                found[name] = problem_of(here, listed[name]) if name in listed else _missing(here)
        return {name: text for name in names if (text := found[name]) is not None}

    versions = []
    for number, manifest in sorted(manifests.items()):
        names = sorted(_small_files(path, number, manifest))
        problems = problems_of(names)
        if not problems:
            try:
                with opening(path):
                    data = sorted(_data_files(lance.dataset(local(path), version=number)))
                names += data
                problems = problems_of(data)
            except CacheError as error:
                problems = {_name(path, manifest): f"cannot be read ({reason(error.__cause__ or error)})"}
        versions.append(Version(number, tuple(names), problems))
    problems = {name: text for version in versions for name, text in version.problems.items()}
    records = [name for name in listed if name.startswith(f"{FOLDER}/") and (path / name).exists()]
    problems.update(problems_of(records))
    problems.update(_check_work(path))
    unlisted = tuple(sorted(name for name in found if name not in listed))
    read = [name for name in found if name in listed]
    return Check(
        versions=tuple(versions),
        problems=problems,
        unlisted=unlisted,
        unreadable=checksums.unreadable_lines(path / LIST),
        checked=len(read),
        bytes=sum(listed[name].size for name in read),
    )


def write_missing(path: str | Path) -> int:
    """Note the checksums of files that have none, as they are now; the caller holds the lock.

    Args:
        path: the cache, as an earlier version of Sparing wrote it.

    Returns:
        How many files.

    Raises:
        CacheError: there is no cache, or the list could not be written.
    """
    path = Path(path)
    left = [name for name in check(path).unlisted if (path / name).exists()]
    with writing(path, CacheError):
        note_files(path, (path / name for name in left))
    return len(left)


def open_version(path: Path, version: int | None) -> Any:
    """Open a version as a Lance dataset, once its manifest and the sizes of its files are found right.

    Args:
        path: the cache.
        version: its number; the newest when absent.

    Raises:
        CacheError: there is no cache or no such version, or it is damaged.
    """
    manifests = _manifests(path)
    if not manifests:
        raise CacheError(f"{path} is not a cache: `sparing cache import` or `fill` makes one")
    number = max(manifests) if version is None else version
    if number not in manifests:
        raise CacheError(f"{path} has no version {version}: see `sparing cache history`")
    listed = checksums.load(path / LIST)
    # Before Lance reads them: it takes most of what they say at its word.
    _refuse(path, listed, _small_files(path, number, manifests[number]), whole=True)
    with opening(path):
        # The newest is asked for as such: another process may have committed another by now.
        dataset = lance.dataset(local(path), version=version)
        _refuse(path, listed, _data_files(dataset), whole=False)
        return dataset


def verify(path: Path, dataset: Any) -> None:
    """Compare the contents of a version's data with what was written, once per file and process.

    Raises:
        CacheError: a file is damaged or missing.
    """
    listed = checksums.load(path / LIST)
    left = set()
    for name in _data_files(dataset):
        if name in listed and _state(path / name) != _verified.get(path / name):
            left.add(name)
    _refuse(path, listed, left, whole=True)
    for name in left:
        state = _state(path / name)
        if state is not None:
            _verified[path / name] = state


def repair(path: str | Path) -> tuple[Check, int, list[Path]]:
    """Go back to the last whole version of a damaged cache; the caller holds the lock.

    What is damaged is moved to `_sparing/damaged`, not deleted: manifests of versions that are not whole, and
    damaged files of work in progress, which is then computed again.

    Args:
        path: the cache.

    Returns:
        What the check found, the version that is now the newest, and where what was damaged lies.

    Raises:
        CacheError: there is no cache, no whole version is left, or it could not be written.
    """
    path = Path(path)
    found = check(path)
    if found.last_whole is None:
        raise CacheError(
            f"{path} has no whole version left: {_tell(found.problems)}. Nothing was changed; bring the "
            "files back from a backup"
        )
    manifests = _manifests(path)
    broken = [manifests[version.number] for version in found.versions if version.problems]
    broken += [path / name for name in found.problems if Path(name).parts[0] == WORK]
    moved = []
    if broken and (path / "_versions" / HINT).exists():
        broken.insert(0, path / "_versions" / HINT)
    if broken:
        aside = path / ASIDE / datetime.now(UTC).strftime("%Y%m%dT%H%M%S%f")
        with writing(path, CacheError):
            # The newest first: a kill in between leaves a cache whose newest version is damaged, as before.
            for file in sorted(broken, key=lambda file: _number(file) or 0):
                target = aside / file.relative_to(path)
                make_folder(target.parent, CacheError)
                shutil.move(file, target)
                sync(target.parent)
                sync(file.parent)
                moved.append(target)
    return found, found.last_whole, moved


def locked(path: str | Path) -> AbstractContextManager[None]:
    """Hold the right to write to a cache that cannot be opened.

    Raises:
        CacheError: there is no cache, or another process writes to it.
    """
    if not has_versions(Path(path)):
        raise CacheError(f"{path} is not a cache: `sparing cache import` or `fill` makes one")
    return write_lock(Path(path) / WORK / "lock", "this cache", CacheLockedError)


@contextmanager
def opening(path: Path) -> Iterator[None]:
    """Turn what Lance raises on damaged files, its panics included, into one error that names repair."""
    try:
        yield
    except (CacheError, KeyboardInterrupt, GeneratorExit, SystemExit, MemoryError):
        raise
    except BaseException as error:  # panics in Rust are no Exception
        if isinstance(error, Exception) and not isinstance(error, ValueError | OSError | RuntimeError):
            raise
        raise CacheError(damaged(path, reason(error))) from error


def damaged(path: Path, text: str) -> str:
    """Say that a cache is damaged, and what to do."""
    return (
        f"{path} is damaged: {text}. `sparing cache check {path}` lists all damage, `sparing cache repair "
        f"{path}` goes back to the last whole version"
    )


def has_versions(path: Path) -> bool:
    """Return whether a folder holds versions of a Lance dataset, readable or not."""
    return bool(_manifests(path))


def _refuse(path: Path, listed: dict[str, Checksum], names: set[str], *, whole: bool) -> None:
    problems = {
        name: text
        for name in sorted(names & set(listed))
        if (text := problem_of(path / name, listed[name], whole=whole)) is not None
    }
    if problems:
        raise CacheError(damaged(path, _tell(problems)))


def _tell(problems: dict[str, str]) -> str:
    name, text = next(iter(problems.items()))
    rest = "" if len(problems) == 1 else f" (and {len(problems) - 1} files more)"
    return f"{name} {text}{rest}"


def _manifests(path: Path) -> dict[int, Path]:
    found = {}
    for file in (path / "_versions").glob("*.manifest"):
        number = _number(file)
        if number is not None:
            found[number] = file
    return found


def _number(file: Path) -> int | None:
    match = _MANIFEST.fullmatch(file.name)
    if match is None:
        return None
    written = int(match[1])
    return _LAST - written if written > _LAST // 2 else written


def _small_files(path: Path, number: int, manifest: Path) -> set[str]:
    """List the manifest of a version, and the transaction that made it."""
    made_by = (path / "_transactions").glob(f"{number - 1}-*.txn")
    return {_name(path, manifest), *(_name(path, file) for file in made_by)}


def _data_files(dataset: Any) -> set[str]:
    found = set()
    for fragment in dataset.get_fragments():
        found |= {f"data/{file.path}" for file in fragment.data_files()}
        deleted = fragment.deletion_file()
        if deleted:
            found.add(deleted)
    return found


def _check_work(path: Path) -> dict[str, str]:
    """Check files of work in progress, which carry their own checksums."""
    from sparing.storage.arrow import read_arrow
    from sparing.storage.readers import read_json

    problems = {}
    for file in sorted(files_below(path / WORK)):
        name = _name(path, file)
        if name.startswith(ASIDE.as_posix()):
            continue
        try:
            if file.suffix == ".arrow":
                read_arrow(file, CacheError)
            elif file.suffix == ".json":
                read_json(file, dict[str, Any], error=CacheError)
        except CacheError as error:
            problems[name] = str(error).removeprefix(f"{file} ").removeprefix(f"{file}: ")
    return problems


def _missing(file: Path) -> str | None:
    return None if file.exists() else "is missing"


def _state(file: Path) -> tuple[int, int, int] | None:
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns, found.st_ino


def _name(path: Path, file: Path) -> str:
    return file.relative_to(path).as_posix()
