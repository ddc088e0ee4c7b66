"""One file holds a run: parameters, moments, and a JSON text with everything else. Written so that no crash loses it.

The file is NumPy's .npz, read without pickle: `param.NAME`, `moment.m.NAME`, `moment.v.NAME` a tensor each, and `meta`,
the JSON text as bytes. It is written beside its place, flushed to the disk and renamed; the one before stays as
`NAME.previous.npz`.
"""

import json
import os
import zipfile
from pathlib import Path

import numpy as np

from tinylm2.backend import to_device, to_host
from tinylm2.data.errors import BadInput
from tinylm2.flat import Flat

FORMAT = 1


def save(path, params, moments, meta):
    """Write a checkpoint: `params` a Flat dict, `moments` {"m": Flat-like buffer, "v": ...}, `meta` JSON values."""
    path = Path(path)
    arrays = {f"param.{name}": to_host(W) for name, W in params.items()}
    for kind, buffer in moments.items():
        arrays |= {f"moment.{kind}.{name}": to_host(part) for name, part in params.like(buffer).items()}
    text = json.dumps({"format": FORMAT, "shapes": params.shapes, "dtype": str(params.buffer.dtype), **meta})
    arrays["meta"] = np.frombuffer(text.encode(), np.uint8)
    temporary = path.with_name(path.name + ".tmp")
    with open(temporary, "wb") as file:
        np.savez(file, **arrays)
        file.flush()
        os.fsync(file.fileno())
    if path.exists():
        previous = path.with_name(path.stem + ".previous" + path.suffix)
        previous.unlink(missing_ok=True)
        os.link(path, previous)                          # a second name, so that at no moment the first is missing
    os.replace(temporary, path)
    _sync_folder(path.parent)


def load(path, *, xp=np):
    """Read a checkpoint: (params, moments, meta).  BadInput, one line, for whatever is not a whole checkpoint."""
    try:
        with open(path, "rb") as raw, np.load(raw, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        meta = json.loads(arrays.pop("meta").tobytes().decode())
        found = meta.pop("format")
        shapes = {name: tuple(shape) for name, shape in meta.pop("shapes").items()}
        dtype = np.dtype(meta.pop("dtype"))
    except FileNotFoundError:
        raise BadInput(f"{path}: found no such file, expected a checkpoint") from None
    except (OSError, EOFError, ValueError, KeyError, TypeError, AttributeError, NotImplementedError, RuntimeError,
            zipfile.BadZipFile) as error:
        raise BadInput(f"{path}: found a damaged file, expected a checkpoint ({_line(error)})") from None
    if found != FORMAT:
        raise BadInput(f"{path}: found checkpoint format {found!r}, expected {FORMAT}")
    params = Flat(shapes, xp, dtype)
    moments = {kind: xp.zeros_like(params.buffer) for kind in ("m", "v")}
    parts = {"param.": params, "moment.m.": params.like(moments["m"]), "moment.v.": params.like(moments["v"])}
    expected = {prefix + name for prefix in parts for name in shapes}
    if expected != arrays.keys():
        raise BadInput(f"{path}: found tensors {sorted(arrays.keys() ^ expected)[:3]} missing or too many")
    for prefix, views in parts.items():
        for name, view in views.items():
            x = arrays[prefix + name]
            if x.shape != view.shape or x.dtype != dtype:
                raise BadInput(f"{path}: {name} is {x.dtype}{list(x.shape)}, expected {dtype}{list(view.shape)}")
            view[...] = to_device(x, xp)
    return params, moments, meta


def _line(error):
    return f"{type(error).__name__}: {error}".splitlines()[0][:120]


def _sync_folder(folder):
    """Make the rename itself lasting; where folders cannot be opened (Windows) the system sees to it."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    handle = os.open(folder, os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
