"""Draw the figure of the architecture, docs/pictures/memory.png and .svg: `python -m docs.figures`."""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Rectangle

FOLDER = Path(__file__).resolve().parent / "pictures"
INK, SOFT, READ, WRITE, SLOT = "#1b1f24", "#eef1f5", "#0072B2", "#D55E00", "#fff4d6"
SEGMENTS = (("segment 1", "… Mary went to the\ngarden. The moon sings …"),
            ("segment 2", "The old river shines.\nThe wind follows the …"),
            ("segment 3", "… the quiet lamp waits.\nWhere is Mary?"))


def box(ax, x, y, width, height, text, *, face=SOFT, edge="#9aa4b1", size=8.5, weight="normal"):
    ax.add_patch(FancyBboxPatch((x, y), width, height, boxstyle="round,pad=0,rounding_size=.06", facecolor=face,
                                edgecolor=edge, linewidth=1))
    ax.text(x + width / 2, y + height / 2, text, ha="center", va="center", fontsize=size, color=INK, weight=weight,
            linespacing=1.35)


def arrow(ax, start, end, colour=INK, style="-|>", bend=0.0, width=1.5):
    ax.add_patch(FancyArrowPatch(start, end, arrowstyle=style, mutation_scale=11, color=colour, linewidth=width,
                                 connectionstyle=f"arc3,rad={bend}", shrinkA=0, shrinkB=0))


def bank(ax, x, y, filled):
    """Eight slots; the one that holds the fact is marked."""
    for i in range(8):
        ax.add_patch(Rectangle((x, y + i * 0.17), 0.62, 0.17, facecolor=WRITE if i == 3 and filled else SLOT,
                               edgecolor="#9a7b1c", linewidth=0.8, alpha=0.85 if i == 3 and filled else 1))


def draw():
    figure, ax = plt.subplots(figsize=(10, 4.6))
    ax.set_xlim(0, 10)
    ax.set_ylim(0, 4.6)
    ax.axis("off")
    for s, (name, text) in enumerate(SEGMENTS):
        x = 0.9 + 3.15 * s
        box(ax, x, 0.15, 2.05, 0.72, text, face="white", size=8)
        ax.text(x, 0.95, name, fontsize=8.5, weight="bold", color=INK)
        box(ax, x, 1.3, 2.05, 0.42, "self-attention")
        box(ax, x, 1.95, 2.05, 0.42, "memory read × output gate", face="#dcecf8", edge=READ, size=8)
        box(ax, x, 2.6, 2.05, 0.42, "feed-forward")
        for low, high in ((1.12, 1.3), (1.72, 1.95), (2.37, 2.6)):
            arrow(ax, (x + 1.02, low), (x + 1.02, high), width=1.2)
        if s < 2:
            arrow(ax, (x + 2.05, 1.51), (x + 2.5, 3.0), WRITE, bend=0.45)
    arrow(ax, (0.9 + 6.3 + 1.02, 3.02), (0.9 + 6.3 + 1.02, 3.42), width=1.2)
    box(ax, 0.9 + 6.3 + 0.55, 3.42, 0.95, 0.36, "garden", face="#dff3e8", edge="#009E73", weight="bold")
    for s in range(3):
        x = 0.12 + 3.15 * s
        bank(ax, x, 3.0, s > 0)
        arrow(ax, (x + 0.62, 3.1), (0.9 + 3.15 * s, 2.16), READ, bend=-0.15)
        if s < 2:
            arrow(ax, (x + 0.62, 4.05), (x + 3.15, 4.05), INK)
            ax.text(x + 1.9, 4.15, "forget gate: what stays", fontsize=8, ha="center", color=INK)
    ax.text(0.12, 4.43, "bank of slots", fontsize=8.5, weight="bold", color=INK)
    ax.text(3.12, 3.25, "write:\ninput gate", fontsize=8, ha="right", color=WRITE, linespacing=1.3)
    ax.text(0.86, 2.62, "read", fontsize=8, ha="right", color=READ)
    return figure


if __name__ == "__main__":
    with matplotlib.rc_context({"font.family": "DejaVu Sans", "svg.hashsalt": "tinylm2"}):
        figure = draw()
        figure.savefig(FOLDER / "memory.png", dpi=130, bbox_inches="tight", facecolor="white",
                       metadata={"Software": None})
        figure.savefig(FOLDER / "memory.svg", bbox_inches="tight", facecolor="white",
                       metadata={"Date": None, "Creator": None})
    print(*(FOLDER / f"memory.{kind}" for kind in ("png", "svg")))
