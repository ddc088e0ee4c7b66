"""Draw the figure of the architecture, docs/pictures/memory.png and .svg: `python -m docs.figures`."""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.patches import Circle, FancyArrowPatch, FancyBboxPatch, Rectangle

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
    """Three segments side by side: below the words, above them a block, and the bank that the block reads."""
    figure, ax = plt.subplots(figsize=(10, 4.9))
    ax.set_xlim(0, 10.4)
    ax.set_ylim(0, 5.1)
    ax.axis("off")
    for s, (name, text) in enumerate(SEGMENTS):
        x = 1.0 + 3.3 * s
        middle, left, right = x + 1.15, x + 0.56, x + 1.74
        box(ax, x, 0.1, 2.3, 0.72, text, face="white", size=8)
        ax.text(x, 0.9, name, fontsize=8.5, weight="bold", color=INK)
        ax.add_patch(FancyBboxPatch((x - 0.08, 1.28), 2.46, 2.1, boxstyle="round,pad=0,rounding_size=.08",
                                    facecolor="none", edgecolor="#9aa4b1", linewidth=0.9, linestyle=(0, (3, 2))))
        box(ax, x, 1.5, 1.12, 0.56, "memory read\n× output gate", face="#dcecf8", edge=READ, size=8)
        box(ax, x + 1.24, 1.5, 1.06, 0.56, "self-\nattention", size=8)
        box(ax, x, 2.78, 2.3, 0.42, "feed-forward", size=8)
        ax.add_patch(Circle((middle, 2.44), 0.12, facecolor="white", edgecolor=INK, linewidth=1))
        ax.text(middle, 2.43, "+", ha="center", va="center", fontsize=10, color=INK)
        for column in left, right:
            arrow(ax, (middle, 0.84), (column, 1.5), width=1.1)
            arrow(ax, (column, 2.06), (middle + (0.12 if column > middle else -0.12), 2.4), width=1.1)
        arrow(ax, (middle, 0.84), (middle, 2.32), width=0.9)             # the residual stream
        arrow(ax, (middle, 2.56), (middle, 2.78), width=1.1)
    ax.text(3.36, 1.1, "a block", fontsize=8, ha="right", color="#5a6472")
    arrow(ax, (8.75, 3.2), (8.75, 3.72), width=1.2)
    box(ax, 8.27, 3.72, 0.96, 0.36, "garden", face="#dff3e8", edge="#009E73", weight="bold")
    for s in range(3):
        x = 0.12 + 3.3 * s
        bank(ax, x, 3.3, s > 0)
        arrow(ax, (x + 0.45, 3.3), (x + 0.88, 1.78), READ, bend=0.2)
        if s < 2:
            arrow(ax, (x + 0.62, 4.44), (x + 3.3, 4.44), INK)
            ax.text(x + 1.96, 4.52, "forget gate: what stays", fontsize=8, ha="center", color=INK)
            arrow(ax, (x + 3.18, 1.9), (x + 3.42, 3.3), WRITE, bend=0.16)
            ax.text(x + 2.72, 3.5, "input gate:\nwhat comes in", fontsize=8, ha="center", color=WRITE, linespacing=1.3)
    ax.text(0.12, 4.76, "bank of slots", fontsize=8.5, weight="bold", color=INK)
    ax.text(0.4, 2.3, "read", fontsize=8, ha="right", color=READ)
    return figure


if __name__ == "__main__":
    with matplotlib.rc_context({"font.family": "DejaVu Sans", "svg.hashsalt": "tinylm2"}):
        figure = draw()
        figure.savefig(FOLDER / "memory.png", dpi=130, bbox_inches="tight", facecolor="white",
                       metadata={"Software": None})
        figure.savefig(FOLDER / "memory.svg", bbox_inches="tight", facecolor="white",
                       metadata={"Date": None, "Creator": None})
    print(*(FOLDER / f"memory.{kind}" for kind in ("png", "svg")))
