"""How long a data-parallel step takes on R ranks, estimated, and what the estimate rests on.

    t(R) = fixed + compute B(R) / B + latency 2 log2 R + 2 (R - 1)/R 4 P / bandwidth

fixed: what every rank does again, such as the update of all parameters and Python's own time. compute: the time of a
batch of B rows on one rank, of which each rank has B(R) = B / R rows, at least one. The rest is the all-reduce of P
float32 gradients, one shard per rank.
"""

from dataclasses import dataclass
from math import ceil, log2

import numpy as np

FLOAT = 4                                                # bytes of a float32


@dataclass(frozen=True)
class Network:
    """What brings gradients together: seconds per message, bytes per second."""

    latency: float
    bandwidth: float

    def all_reduce(self, size, R):
        """Seconds to add `size` numbers of R ranks."""
        return self.latency * 2 * log2(R) + 2 * (R - 1) / R * FLOAT * size / self.bandwidth


# Assumed, from the makers' figures and common benchmarks of them; not measured here.
NETWORKS = {"10 Gbit/s Ethernet": Network(20e-6, 10e9 / 8), "200 Gbit/s InfiniBand": Network(2e-6, 200e9 / 8)}


@dataclass(frozen=True)
class Work:
    """A model's step on one rank: seconds that are not shared, seconds of its rows, rows, parameters."""

    fixed: float
    compute: float
    rows: int
    size: int

    def step(self, R, network):
        """Seconds of a step on R ranks. Above `rows` ranks the batch grows: each rank has one row."""
        rows = max(1, ceil(self.rows / R))
        return self.fixed + self.compute * rows / self.rows + network.all_reduce(self.size, R)

    def speedup(self, R, network):
        """Rows per second on R ranks, as a multiple of those on one."""
        rows = max(self.rows, R)
        return rows / self.step(R, network) * (self.fixed + self.compute) / self.rows


def fit_line(x, seconds):
    """(a, b) of seconds = a + b x, both at least 0, with equal weight to equal relative errors."""
    x, seconds = np.asarray(x, float), np.asarray(seconds, float)
    design = np.stack((np.ones_like(x), x), axis=1) / seconds[:, None]
    found, *_ = np.linalg.lstsq(design, np.ones_like(x), rcond=None)
    if (found < 0).any():                                # one of them alone then fits best
        alone = [float((column @ np.ones_like(x)) / (column @ column)) for column in design.T]
        found = (0.0, alone[1]) if found[0] < 0 else (alone[0], 0.0)
    return float(found[0]), float(found[1])


def fitted_network(sizes, seconds, R):
    """The Network that all-reduces of these sizes on R ranks took."""
    a, b = fit_line(sizes, seconds)
    return Network(a / (2 * log2(R)), 2 * (R - 1) / R * FLOAT / b if b else float("inf"))


def limits(work, network, R):
    """Which part of a step on R ranks is the longest, and its share."""
    rows = max(1, ceil(work.rows / R))
    parts = {"work that no rank shares": work.fixed, "rows": work.compute * rows / work.rows,
             "latency": network.latency * 2 * log2(R),
             "bandwidth": 2 * (R - 1) / R * FLOAT * work.size / network.bandwidth}
    name = max(parts, key=parts.get)
    return name, parts[name] / sum(parts.values())


def draw(works, networks, path):
    """Rows per second over the number of ranks up to 1,024, a panel per model."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    ranks = 2 ** np.arange(11)
    figure, axes = plt.subplots(1, len(works), figsize=(4 * len(works), 3.2), squeeze=False, constrained_layout=True)
    for axis, (name, work) in zip(axes[0], works.items(), strict=True):
        axis.loglog(ranks, ranks, ":", color="gray", label="ideal")
        for label, network in networks.items():
            axis.loglog(ranks, [work.speedup(int(R), network) for R in ranks], "o-", markersize=3, label=label)
        if work.rows < ranks[-1]:
            axis.axvline(work.rows, color="gray", linewidth=0.8)
            axis.annotate("one row per rank", (work.rows, 1), rotation=90, fontsize=7, ha="right", va="bottom")
        axis.set(title=name, xlabel="ranks", ylabel="rows per second, relative to one rank")
        axis.legend(fontsize=7)
    figure.savefig(path, dpi=110)
    plt.close(figure)
