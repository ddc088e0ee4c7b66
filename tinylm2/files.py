"""Writing files: a file is replaced completely or not at all, and an input is never replaced."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tinylm2.errors import BadInput


@contextlib.contextmanager
def replacing(path: Any, *, keep: Any = None) -> Iterator:
    """A binary file to write. When the block ends without an error, it replaces `path` at once and is on the disk.

    At any moment, even after a crash, `path` is the complete old file or the complete new one. keep: a path under which
    the old file stays.  BadInput where it cannot be written, or where `path` is a device or a pipe.
    """
    path = Path(path)
    temporary = temporary_of(path)
    try:
        if path.exists() and not path.is_file():         # replacing /dev/null would break other programs
            raise BadInput(f"{path}: cannot be written (found no regular file)")
        with open(temporary, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if keep and path.exists():
            keep.unlink(missing_ok=True)
            try:
                os.link(path, keep)                      # `path` exists at every moment
            except OSError:                              # no hard links: for a moment only `keep` exists
                os.replace(path, keep)
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except OSError as error:
        raise BadInput(f"{path}: cannot be written ({error.strerror or error})") from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def temporary_of(path: Any) -> Path:
    """The file that this process writes before it replaces `path`.

    It is in the same folder, because a rename is atomic only within one disk. Its name has the process id, because two
    processes may replace one file. An old file of this name, from a killed process, is removed.
    """
    temporary = Path(path).with_name(f"{Path(path).name}.{os.getpid()}.tmp")
    with contextlib.suppress(OSError):
        temporary.unlink(missing_ok=True)
    return temporary


def _sync_folder(folder):
    """Write the rename itself to the disk. On Windows, where folders cannot be opened, the system does it."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    handle = os.open(folder, os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def refuse_output(path: Any, option: str, inputs: Any = ()) -> None:
    """BadInput where `path` cannot be written, or is one of the inputs. Call it before the work begins."""
    path = Path(path)
    if not path.parent.is_dir():
        raise BadInput(f"{option} {path}: found no folder {path.parent}, expected one")
    if path.exists() and not path.is_file():
        raise BadInput(f"{option} {path}: found a folder or a device, expected a file or a new name")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise BadInput(f"{option} {path}: cannot be written (the folder is read-only)")
    for other in map(Path, filter(None, inputs)):
        if other == path or path.exists() and other.exists() and os.path.samefile(path, other):
            raise BadInput(f"{option} {path}: found a file that is read or kept, expected another name")
