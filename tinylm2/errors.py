"""Errors for bad input in one line: where it is, what was found, what was expected."""

import json
import os
import stat
from typing import Any

LARGEST = 2**30                                          # bytes of a text file


class BadInput(ValueError):
    """Bad input from a user. The message is one line; the commands print it and exit with status 2."""

    @classmethod
    def at(cls, path: Any, line: Any, found: Any, expected: Any) -> Any:
        """The error of one line of a file: `stories.txt:7: found 'x', expected a line number`."""
        return cls(f"{path}:{line}: found {found}, expected {expected}")


def refuse_special(path: Any) -> None:
    """BadInput where this path is a device, a pipe or a socket, which may have no end or wait for ever."""
    try:
        mode = os.stat(path).st_mode
    except OSError:                                      # opening it will raise the error
        return
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise BadInput(f"{path}: found a device or a pipe, expected a file")


def read_lines(path: Any) -> Any:
    """The lines of a text file without line ends, and without blank lines at its end.

    BadInput where it cannot be read, is no regular file, is empty or is not UTF-8.
    """
    refuse_special(path)
    try:
        with open(path, "rb") as file:
            raw = file.read(LARGEST + 1)
    except OSError as error:
        raise BadInput(f"{path}: cannot be read ({error.strerror})") from error
    if len(raw) > LARGEST:
        raise BadInput(f"{path}: found more than {LARGEST:,} bytes, expected at most this")
    if not raw.strip():
        raise BadInput.at(path, 1, "an empty file", "text")
    lines = []
    for number, line in enumerate(raw.rstrip().splitlines(), 1):
        try:
            lines.append(line.decode("utf-8-sig" if number == 1 else "utf-8"))
        except UnicodeDecodeError as error:
            raise BadInput.at(path, number, f"the byte 0x{line[error.start]:02x}", "text in UTF-8") from error
    return lines


def parse_json(text: str, path: Any, line: int = 1) -> Any:
    """The value of a JSON text that starts on this line of a file.  BadInput where it is not JSON."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        found = text.splitlines()[error.lineno - 1:error.lineno] or [""]
        raise BadInput.at(path, line + error.lineno - 1, repr(found[0][:40]), f"JSON ({error.msg})") from None
    except (ValueError, RecursionError):                 # thousands of digits, or deeply nested lists
        raise BadInput.at(path, line, "JSON too long or too deep to read", "what this program writes") from None
