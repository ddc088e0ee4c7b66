"""A checkpoint: one file with parameters, moments, and a JSON text with everything else. A crash never loses it.

The file is NumPy's .npz, read without pickle: one tensor per `param.NAME`, `moment.m.NAME` and `moment.v.NAME`, and
`meta`, the JSON text as bytes. It is written under another name, flushed to the disk and renamed. The previous
checkpoint stays as `NAME.previous.npz`.
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
    """Write a checkpoint.

    params: a Flat dict. moments: {"m": buffer like that of the parameters, "v": ...}, or {} before the first step, when
    they are zero. meta: JSON values.  BadInput where the disk refuses; then the old file stays.
    """
    arrays = {f"param.{name}": to_host(W) for name, W in params.items()}
    for kind, buffer in moments.items():
        arrays |= {f"moment.{kind}.{name}": to_host(part) for name, part in params.like(buffer).items()}
    text = json.dumps({"format": FORMAT, "shapes": params.shapes, "dtype": str(params.buffer.dtype),
                       "moments": list(moments), **meta})
    arrays["meta"] = np.frombuffer(text.encode(), np.uint8)
    with replacing(path, keep=previous(path)) as file:
        np.savez(file, **arrays)


def previous(path: Any) -> Any:
    """The path of the checkpoint before the one at `path`: model.previous.npz for model.npz."""
    path = Path(path)
    return path.with_name(path.stem + ".previous" + path.suffix)


def load(path: Any, *, xp: Any = np) -> tuple:
    """Read a checkpoint: (params, moments, meta).  BadInput for anything that is not a complete checkpoint."""
    refuse_special(path)
    try:
        arrays = _read(path)
        meta = json.loads(arrays.pop("meta").tobytes().decode())
        if (found := meta.pop("format")) != FORMAT:      # first: another format may hold anything
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
    except Exception as error:                           # for damaged bytes, zipfile, ast and json raise many types
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
            raise BadInput(f"{path}: {name:.60} holds numbers that are not finite, expected finite ones")
    params = Flat(shapes, xp, dtype)
    moments = {kind: xp.zeros(params.buffer.size, dtype) for kind in MOMENTS}      # no memory is used before writing
    parts = {"param.": params} | {f"moment.{kind}.": params.like(moments[kind]) for kind in kept}
    for prefix, views in parts.items():
        for name, view in views.items():
            view[...] = to_device(arrays[prefix + name], xp)
    return params, moments, meta


def _read(path):
    """Name -> array of every entry of a .npz that `save` wrote.

    Stricter than np.load: no entry is compressed, and the bytes must match the shape. So a small file cannot claim a
    terabyte.
    """
    arrays = {}
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        if sum(entry.file_size for entry in entries) > os.path.getsize(path):
            raise ValueError("entries longer than the file")
        for entry in entries:
            stream = io.BytesIO(archive.read(entry))     # checks the CRC
            if np.lib.format.read_magic(stream) != (1, 0):
                raise ValueError(f"{entry.filename} is of another .npy version")
            shape, fortran, dtype = np.lib.format.read_array_header_1_0(stream)
            raw = stream.getbuffer()[stream.tell():]
            if dtype.hasobject or prod(shape) * dtype.itemsize != len(raw):
                raise ValueError(f"{entry.filename} is not an array of {list(shape)} plain numbers")
            array = np.frombuffer(raw, dtype).reshape(shape, order="F" if fortran else "C")
            arrays[entry.filename.removesuffix(".npy")] = array
    return arrays


def _line(error):
    return f"{type(error).__name__}: {error}".splitlines()[0][:120]
