"""The drawings of what switches did, alone and together, in Plotly's words as `figures`."""

from __future__ import annotations

from collections.abc import Sequence

from sweeper.analysis.effects import Delta, Effect, Interaction
from sweeper.contract.measurements import METRICS
from sweeper.contract.metrics import Metric
from sweeper.report.content import Figure
from sweeper.report.figures import BAR_PX, BLUE, DIVERGING, GREY, LETTER_PX, ORANGE, axis
from sweeper.study.units import difference, percent


def effect_bars(effects: Sequence[Effect], metric: str) -> Figure:
    """One bar per change of a switch, the values in a column of their own: beside a short bar they would lie
    on the names of the changes as soon as another bar is long."""
    told = [(effect, effect.deltas[metric]) for effect in effects if metric in effect.deltas]
    known = METRICS[metric]
    percents, scale = known.quantity.is_rate, known.quantity.divisor
    values = [((delta.ratio or 1) - 1) * 100 if percents else delta.mean / scale for _, delta in told]
    colors = [_verdict_color(value, not known.is_higher_better) for value in values]
    labels = [_change_label(effect) for effect, _ in told]
    texts = [_signed(value, percents, metric) for value in values]
    room = LETTER_PX * max(map(len, texts), default=0)
    column = {"xref": "paper", "x": 1, "xshift": room + 6, "xanchor": "right", "showarrow": False}
    data = {
        "type": "bar",
        "orientation": "h",
        "y": labels,
        "x": values,
        "marker": {"color": colors},
        "text": texts,
        "textposition": "none",
        "hovertext": [_range(delta, metric) for _, delta in told],
        "hovertemplate": "%{y}: %{text}<br>%{hovertext}<extra></extra>",
    }
    layout = {
        "xaxis": axis("", zeroline=True, zerolinewidth=1.5, nticks=4, tickangle=0, tickformat=","),
        "yaxis": axis("", autorange="reversed"),
        "annotations": [column | {"y": at, "text": text} for at, text in zip(labels, texts, strict=True)],
        "margin": {"l": 12, "r": room + 14, "t": 12, "b": 40},
        "showlegend": False,
        "bargap": 0.35,
    }
    height = 70 + max(2, len(told)) * (BAR_PX + 12)
    return Figure(f"effect-{metric}", _change_title(known), [data], layout, height)


def _change_title(metric: Metric) -> str:
    unit = "%" if metric.quantity.is_rate else metric.quantity.unit
    return f"{metric.label.capitalize()}{f', {unit}' if unit else ''}"


def _range(delta: Delta, metric: str) -> str:
    low, high = difference(metric, delta.lowest), difference(metric, delta.highest)
    return f"{low} to {high} over {delta.pairs} pairs"


def _change_label(effect: Effect) -> str:
    return f"{effect.switch}<br>{effect.before} → {effect.after}"


def _verdict_color(value: float, good_is_low: bool) -> str:
    if value == 0:
        return GREY
    return BLUE if (value < 0) == good_is_low else ORANGE


def _signed(value: float, percents: bool, metric: str) -> str:
    if percents:
        return percent(1 + value / 100)
    return difference(metric, value * METRICS[metric].quantity.divisor)


def interaction_map(found: Sequence[Interaction], metric: str) -> Figure:
    """Change by change: how much more (or less) both together do than each alone."""
    told = [item for item in found if metric in item.excess]
    names = list(dict.fromkeys(_short_change(item.first) for item in told))
    others = list(dict.fromkeys(_short_change(item.second) for item in told))
    quantity = METRICS[metric].quantity
    values = {
        (_short_change(item.first), _short_change(item.second)): (item.excess[metric] - 1) * 100
        if quantity.is_rate
        else item.excess[metric] / quantity.divisor
        for item in told
    }
    grid = [[values.get((name, other)) for name in names] for other in others]
    largest = max((abs(value) for value in values.values()), default=1) or 1
    shown = [["" if value is None else _plain_sign(value) for value in row] for row in grid]
    data = {
        "type": "heatmap", "x": names, "y": others, "z": grid, "text": shown, "texttemplate": "%{text}",
        "textfont": {"color": "#1a1a1a"},
        "zmin": -largest, "zmax": largest, "colorscale": DIVERGING, "xgap": 2, "ygap": 2, "showscale": False,
        "hoverongaps": False, "hovertemplate": "%{x}<br>with %{y}: %{text}<extra></extra>",
    }  # fmt: skip
    layout = {"xaxis": axis("", tickangle=-35, showgrid=False), "yaxis": axis("", showgrid=False)}
    title = _change_title(METRICS[metric])
    return Figure(f"interaction-{metric}", title, [data], layout, 130 + len(others) * (BAR_PX + 6))


def _plain_sign(value: float) -> str:
    return "0" if abs(value) < 0.05 else f"{value:+,.1f}".replace("-", "−")


def _short_change(item: tuple[str, str, str]) -> str:
    return f"{item[0].rpartition('.')[2]} {item[1]} → {item[2]}"
