"""Numbers as text: summaries of measurements, and Markdown tables, for benchmarks and experiments."""

from statistics import median, quantiles


def markdown(header, rows):
    """A Markdown table."""
    return "\n".join("| " + " | ".join(map(str, row)) + " |" for row in (header, ["---"] * len(header), *rows))


def mean_range(values, digits=3):
    """ "0.97 (0.95-0.99)": mean, lowest and highest; the mean alone where they are the same; "-" without values."""
    if not values:
        return "-"
    mean = f"{sum(values) / len(values):.{digits}f}"
    return mean if min(values) == max(values) else f"{mean} ({min(values):.{digits}f}-{max(values):.{digits}f})"


def median_quartiles(values):
    """ "1.02 (0.98-1.05)": the median, and the quartiles around it; a single value is all three."""
    low, _, high = quantiles(values, n=4) if len(values) > 1 else [*values] * 3
    return f"{median(values):.2f} ({low:.2f}-{high:.2f})"
