"""Files that are written: another one is replaced whole or not at all, and nothing that was read is replaced."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tinylm2.errors import BadInput


@contextlib.contextmanager
def replacing(path: Any, *, keep: Any = None) -> Iterator:
    """A binary file to write, which takes the place of `path` at once when the block has ended well, and lasts.

    Whatever happens and whenever, `path` is the old file or the new one, each whole. keep: a second name for the old.
    BadInput, one line, where it cannot be written, and where a device or a pipe stands there.
    """
    path = Path(path)
    temporary = temporary_of(path)
    try:
        if path.exists() and not path.is_file():         # to replace /dev/null would take it from everybody
            raise BadInput(f"{path}: cannot be written (found no regular file)")
        with open(temporary, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if keep and path.exists():
            keep.unlink(missing_ok=True)
            try:
                os.link(path, keep)                      # so that at no moment the first name is missing
            except OSError:                              # a disk without second names: for a moment only `keep` stands
                os.replace(path, keep)
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except OSError as error:
        raise BadInput(f"{path}: cannot be written ({error.strerror or error})") from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def temporary_of(path: Any) -> Path:
    """Where this process writes what will replace `path`. In the same folder, for a rename is at once within one disk
    only; with the process's number, for two processes may replace one file. What a killed process of this number left
    is taken away."""
    temporary = Path(path).with_name(f"{Path(path).name}.{os.getpid()}.tmp")
    with contextlib.suppress(OSError):
        temporary.unlink(missing_ok=True)
    return temporary


def _sync_folder(folder):
    """Make the rename itself lasting; where folders cannot be opened (Windows) the system sees to it."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    handle = os.open(folder, os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def refuse_output(path: Any, option: str, inputs: Any = ()) -> None:
    """BadInput, before hours of work, where `path` cannot be written, or is one of the inputs."""
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
