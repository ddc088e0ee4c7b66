"""One file holds a run: parameters, moments, and a JSON text with everything else. Written so that no crash loses it.

The file is NumPy's .npz, read without pickle: `param.NAME`, `moment.m.NAME`, `moment.v.NAME` a tensor each, and `meta`,
the JSON text as bytes. It is written beside its place, flushed to the disk and renamed; the one before stays as
`NAME.previous.npz`.
"""

import io
import json
import os
import zipfile
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from tinylm2.backend import to_device, to_host
from tinylm2.errors import BadInput, refuse_special
from tinylm2.files import replacing
from tinylm2.flat import Flat

FORMAT = 2                                               # 1 was that of tinylm2 0.1.0
MOMENTS = ("m", "v")


def save(path: Any, params: Flat, moments: Any, meta: Any) -> None:
    """Write a checkpoint: `params` a Flat dict, `moments` {"m": buffer like the parameters', "v": ...} or {} before
    the first step, where they are zero, `meta` JSON values.  BadInput where the disk refuses; what stood at `path` then
    stands there still."""
    arrays = {f"param.{name}": to_host(W) for name, W in params.items()}
    for kind, buffer in moments.items():
        arrays |= {f"moment.{kind}.{name}": to_host(part) for name, part in params.like(buffer).items()}
    text = json.dumps({"format": FORMAT, "shapes": params.shapes, "dtype": str(params.buffer.dtype),
                       "moments": list(moments), **meta})
    arrays["meta"] = np.frombuffer(text.encode(), np.uint8)
    with replacing(path, keep=previous(path)) as file:
        np.savez(file, **arrays)


def previous(path: Any) -> Any:
    """Where the checkpoint before the one at `path` is kept: model.previous.npz of model.npz."""
    path = Path(path)
    return path.with_name(path.stem + ".previous" + path.suffix)


def load(path: Any, *, xp: Any = np) -> tuple:
    """Read a checkpoint: (params, moments, meta).  BadInput, one line, for whatever is not a whole checkpoint."""
    refuse_special(path)
    try:
        arrays = _read(path)
        meta = json.loads(arrays.pop("meta").tobytes().decode())
        if (found := meta.pop("format")) != FORMAT:      # first: what else another format holds, nobody knows
            raise BadInput(f"{path}: found checkpoint format {found!r:.20}, expected {FORMAT}: train the run again, or "
                           "use the version of tinylm2 that made it (format 1: 0.1.0)")
        dtype = np.dtype(meta.pop("dtype"))
        shapes = {name: tuple(shape) for name, shape in meta.pop("shapes").items()}
        kept = MOMENTS if meta.pop("moments", MOMENTS) else ()
        expected = {prefix + name: shape for prefix in ("param.", *(f"moment.{m}." for m in kept))
                    for name, shape in shapes.items()}
    except BadInput:
        raise
    except FileNotFoundError:
        raise BadInput(f"{path}: found no such file, expected a checkpoint") from None
    except Exception as error:                           # of broken bytes, zipfile, ast and json can make any error
        raise BadInput(f"{path}: found a damaged file, expected a checkpoint ({_line(error)})") from None
    if dtype.kind != "f":
        raise BadInput(f"{path}: found numbers of type {dtype}, expected float32 or float64")
    if odd := sorted(arrays.keys() ^ expected.keys()):
        raise BadInput(f"{path}: found {len(odd)} tensors missing or too many, such as {odd[0]!r:.60}")
    for name, shape in expected.items():
        x = arrays[name]
        if x.shape != shape or x.dtype != dtype:
            raise BadInput(f"{path}: {name:.60} is {x.dtype} {list(x.shape)}, expected {dtype} {list(shape)}"[:300])
        if not np.isfinite(x).all():
            raise BadInput(f"{path}: {name:.60} holds numbers that are not finite, expected a model that learned")
    params = Flat(shapes, xp, dtype)
    moments = {kind: xp.zeros(params.buffer.size, dtype) for kind in MOMENTS}      # taken from the system when written
    parts = {"param.": params} | {f"moment.{kind}.": params.like(moments[kind]) for kind in kept}
    for prefix, views in parts.items():
        for name, view in views.items():
            view[...] = to_device(arrays[prefix + name], xp)
    return params, moments, meta


def _read(path):
    """Name -> array of every entry of a .npz that `save` wrote.

    Stricter than np.load: no entry is packed, and a shape is believed only where so many bytes follow. A file of a few
    bytes cannot claim a terabyte.
    """
    arrays = {}
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        if sum(entry.file_size for entry in entries) > os.path.getsize(path):
            raise ValueError("entries longer than the file")
        for entry in entries:
            stream = io.BytesIO(archive.read(entry))     # checks the entry's sum
            if np.lib.format.read_magic(stream) != (1, 0):
                raise ValueError(f"{entry.filename} is of another .npy version")
            shape, fortran, dtype = np.lib.format.read_array_header_1_0(stream)
            raw = stream.getbuffer()[stream.tell():]
            if dtype.hasobject or prod(shape) * dtype.itemsize != len(raw):
                raise ValueError(f"{entry.filename} is no array of {list(shape)} plain numbers")
            array = np.frombuffer(raw, dtype).reshape(shape, order="F" if fortran else "C")
            arrays[entry.filename.removesuffix(".npy")] = array
    return arrays


def _line(error):
    return f"{type(error).__name__}: {error}".splitlines()[0][:120]
