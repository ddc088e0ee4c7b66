"""What the lessons share: the way to the library, and pictures that work in a notebook and in a shell alike."""

import io
import json
import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")       # the products are small: two threads are slower than one

import sys
import webbrowser
from pathlib import Path
from types import SimpleNamespace

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))               # `import tinylm2` without installing it

import numpy as np

ROOT = Path(sys.path[0])
PICTURES = (ROOT if (ROOT / "pyproject.toml").is_file() else Path.cwd()) / "build" / "lessons"
OPENS = False                                            # in a shell: `tutorials.step --open` sets it
np.set_printoptions(precision=4, suppress=True, linewidth=110)

try:
    import matplotlib.pyplot as plt
except ImportError:
    plt = None
    print("matplotlib is not installed: this lesson goes on without its pictures (pip install matplotlib)")
else:
    plt.rcParams.update({
        "figure.dpi": 90, "savefig.dpi": 90, "figure.constrained_layout.use": True, "font.size": 9,
        "axes.titlesize": 10, "axes.spines.top": False, "axes.spines.right": False, "image.cmap": "Blues",
        "legend.frameon": False})


def show(figure, name):
    """Put a picture into the notebook; in a shell into a file of build/lessons/, and say where, or open it."""
    drawing = _png(figure)
    plt.close(figure)
    if "ipykernel" in sys.modules:
        from IPython.display import Image, display

        display(Image(drawing))
    else:
        PICTURES.mkdir(parents=True, exist_ok=True)
        path = PICTURES / f"{name}.png"
        path.write_bytes(drawing)
        print(f"picture: {os.path.relpath(path)}")
        if OPENS:
            webbrowser.open(path.as_uri())


def _png(figure):
    """A picture as the bytes of a file: drawings need few colours, and a palette makes them a quarter as large."""
    from PIL import Image  # comes with matplotlib

    full, small = io.BytesIO(), io.BytesIO()
    figure.savefig(full, format="png")
    Image.open(full).convert("RGB").quantize(96, dither=Image.Dither.NONE).save(small, "PNG", optimize=True)
    return small.getvalue()


def heat(axis, values, title="", *, rows=None, columns=None, signed=True, numbers=None, limit=None):
    """Draw a matrix: red above zero and blue below (`signed`), or white to blue; NaN, what is hidden, is grey.

    rows, columns: labels. numbers: a format such as ".2f" writes each value into its place. limit: the value of the
    strongest colour, so that two pictures can be compared.
    """
    values = np.asarray(values, float)
    limit = limit or np.nanmax(np.abs(values)) or 1.0
    colours = plt.get_cmap("RdBu_r" if signed else "Blues").with_extremes(bad="lightgray")
    axis.imshow(values, cmap=colours, vmin=-limit if signed else 0, vmax=limit, aspect="auto")
    height, width = values.shape
    for labels, set_ticks, length in ((columns, axis.set_xticks, width), (rows, axis.set_yticks, height)):
        if labels is not None:
            set_ticks(range(length), labels)
        else:
            set_ticks([])
    if columns is not None and max(map(len, map(str, columns))) > 3:
        axis.tick_params(axis="x", rotation=90)
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)
    if numbers:
        for (i, j), value in np.ndenumerate(values):
            if np.isnan(value):
                continue
            written = format(value, numbers)
            written = written if float(written) else format(0.0, numbers)        # no "-0.00"
            axis.text(j, i, written, ha="center", va="center", fontsize=7,
                      color="white" if abs(value) > 0.6 * limit else "black")
    axis.set_title(title)


def trained(name):
    """One of the small runs in tutorials/data, which data/make.py trained: `params`, `cfg`, `tokenizer`, the `seconds`
    that it took, and its `course`: arrays `stage`, `step`, `loss`, `accuracy`, means of ten steps each."""
    from tinylm2.data import Tokenizer
    from tinylm2.flat import Flat
    from tinylm2.model import Config, param_shapes

    with np.load(Path(__file__).parent / "data" / f"{name}.npz") as file:
        arrays = {key.removeprefix("param."): file[key] for key in file.files}
    meta = json.loads(arrays.pop("meta").tobytes())
    cfg = Config(**meta["config"])
    params = Flat(param_shapes(cfg), np, "float32")
    for key, W in arrays.items():
        params[key][...] = W
    columns = zip(*meta["course"], strict=True)
    course = SimpleNamespace(**dict(zip(("stage", "step", "loss", "accuracy"), map(np.array, columns), strict=True)))
    return SimpleNamespace(params=params, cfg=cfg, tokenizer=Tokenizer.from_json(meta["tokenizer"]),
                           seconds=meta["seconds"], course=course)
