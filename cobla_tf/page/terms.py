"""The terms of one site as columns: singular values, those kept, masks and final scales."""

from dataclasses import dataclass

import numpy as np

from cobla_tf.report_parts import SiteReport

WIDTH, HEIGHT, MASK_HEIGHT = 300, 80, 40
MOST_COLUMNS = 100
"""A site of more terms has several in a column."""
LEAST_HEIGHT = 0.05
"""In pixels: what cannot be seen is not drawn."""

Array = np.ndarray


@dataclass(frozen=True)
class TermsChart:
    """SVG paths over the terms of one site, the largest singular value on the left.

    Attributes:
        column: width of a column in pixels.
        values: singular values, the largest of each column, on a linear scale from 0.
        kept: the part of each of these columns that is the share of its terms kept.
        masks: relaxed masks, the mean of each column; empty where nothing was optimised.
        scales: what kept terms are multiplied by in the result, the mean of each column.
        one: height of the line at 1 in pixels, from the top of the masks' part.
        largest_scale: at the top of the masks' part.
        energy: share of the sum of squared singular values that belongs to kept terms.
    """

    column: float
    values: str
    kept: str
    masks: str
    scales: str
    one: float
    largest_scale: float
    energy: float


def terms_chart(site: SiteReport) -> TermsChart | None:
    """The chart of one site; None where its singular values are not known."""
    sigma, masks, scales = map(np.nan_to_num, (site.singular_values, site.masks, site.scales))
    if not len(sigma) or len(scales) != len(sigma):
        return None
    kept = scales > 0
    groups = np.array_split(np.arange(len(sigma)), min(len(sigma), MOST_COLUMNS))
    column = WIDTH / len(groups)
    x = [(i + 0.5) * column for i in range(len(groups))]
    heights = np.array([sigma[group].max() for group in groups]) / (sigma.max() or 1.0) * HEIGHT
    shares = np.array([kept[group].mean() for group in groups])
    top = max(1.0, float(scales.max()))
    means = [masks[group].mean() for group in groups] if len(masks) else []
    levels = [scales[group][kept[group]].mean() if kept[group].any() else None for group in groups]
    squares = sigma**2
    return TermsChart(
        column=round(column, 2),
        values=_columns(x, heights, HEIGHT),
        kept=_columns(x, heights * shares, HEIGHT),
        masks=_columns(x, np.array(means) / top * MASK_HEIGHT, MASK_HEIGHT),
        scales=_dashes(x, [None if v is None else v / top * MASK_HEIGHT for v in levels], column),
        one=round(MASK_HEIGHT * (1 - 1 / top), 1),
        largest_scale=top,
        energy=float(squares[kept].sum() / (squares.sum() or 1.0)),
    )


def _columns(x: list[float], heights: Array, bottom: float) -> str:
    return "".join(f"M{a:.5g} {bottom}v{-h:.3g}" for a, h in zip(x, heights, strict=False) if h >= LEAST_HEIGHT)


def _dashes(x: list[float], heights: list[float | None], column: float) -> str:
    pairs = [(a, h) for a, h in zip(x, heights, strict=True) if h is not None]
    return "".join(f"M{a - column / 2:.5g} {MASK_HEIGHT - h:.3g}h{column:.3g}" for a, h in pairs)
