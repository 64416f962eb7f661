r"""A file that gets its name when it is whole, and the version before kept beside it.

The new file is written under a name that nobody can guess, is synced, and is then renamed. So a
crash, a full disk or a second process that saves to the same name leaves one whole version or
the other: the last to finish wins. Nothing is ever written through a link.
"""

from __future__ import annotations

import glob
import os
import secrets
import shutil
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from sdescore import checks
from sdescore.errors import CheckpointError


def previous_path(path: str | os.PathLike[str]) -> Path:
    """Where the version before the last save is kept: ``vp.previous.safetensors``."""
    path = _behind_links(Path(path))
    return path.with_name(f"{path.stem}.previous{path.suffix}")


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """A file to write; it replaces the one at ``path`` when the block ends without an error.

    A new file has the permissions that the umask allows; a replacement has those of the old file.
    Until it is complete, only its owner can open it. If it cannot be written, the old file stays.
    """
    path = checks.path(path)
    try:
        target = _behind_links(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        _sweep(target)
        temporary, file = _create(target)
        try:
            with file:
                yield file
                file.flush()
                _give_mode(file.fileno(), target)
                os.fsync(file.fileno())
                if os.name != "posix":  # elsewhere an open file cannot be renamed
                    file.close()
                _keep_previous(target)
                # Still open, and so still locked: no sweep takes it before it has its name.
                os.replace(temporary, target)
        except BaseException:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise
        if os.name == "posix":  # elsewhere the rename is durable by itself
            handle = os.open(target.parent, os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)
    except OSError as error:
        advice = "make room or name another path. The file that was there is untouched"
        got = f"{type(error).__name__}: {error}"
        raise CheckpointError(f"expected to write {path}, got {got}; {advice}") from error


def _behind_links(path: Path) -> Path:
    """The file that a link of the user's own leads to; a stranger's link is itself replaced."""
    if path.is_symlink() and (os.name != "posix" or path.lstat().st_uid == os.geteuid()):
        return Path(os.path.realpath(path))
    return path


def _create(target: Path) -> tuple[Path, BinaryIO]:
    """A new file beside ``target``, opened by nobody else, and locked while it is open."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    flags |= getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
    while True:
        path = _beside(target, "new")
        file = os.fdopen(os.open(path, flags, 0o600), "wb")
        _lock(file.fileno())
        # Until then another save may have taken it for one that was left behind.
        if os.name != "posix" or os.fstat(file.fileno()).st_nlink:
            return path, file
        file.close()


def _beside(target: Path, what: str) -> Path:
    return target.with_name(f".{target.name}.{secrets.token_hex(8)}.{what}")


def _lock(handle: int, wait: bool = True) -> bool:
    """Mark a file as being written, until it is closed or the process ends; False if it cannot."""
    if sys.platform != "win32":
        import fcntl

        with suppress(OSError):  # locked by another save, or a file system without locks
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            return True
    return False


def _sweep(target: Path) -> None:
    """Remove what saves that were killed left behind; those under way hold a lock."""
    name = glob.escape(target.name)
    for left in target.parent.glob(f".{name}.*.new"):
        with suppress(OSError):
            handle = os.open(left, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0))
            try:
                if _lock(handle, wait=False):
                    left.unlink()
            finally:
                os.close(handle)
    for left in target.parent.glob(f".{name}.*.link"):
        with suppress(OSError):
            left.unlink()


def _give_mode(handle: int, target: Path) -> None:
    """The permissions of the file to be replaced, or those of any new file."""
    if sys.platform == "win32":
        return
    try:
        mode = stat.S_IMODE(target.lstat().st_mode) & 0o777
    except FileNotFoundError:
        umask = os.umask(0o077)  # it can only be read by setting it
        os.umask(umask)
        mode = 0o666 & ~umask
    os.fchmod(handle, mode)


def _keep_previous(target: Path) -> None:
    """Give the present file a second name, so that it stays at the first one meanwhile."""
    while target.is_file() and not target.is_symlink():
        second = _beside(target, "link")
        try:
            try:
                os.link(target, second)
            except OSError:  # a file system without hard links
                shutil.copy(target, second)
            os.replace(second, previous_path(target))
        except FileNotFoundError:
            continue  # another save swept the second name away
        finally:
            # A rename between two names of one file does nothing, and leaves both.
            with suppress(OSError):
                second.unlink(missing_ok=True)
        return
