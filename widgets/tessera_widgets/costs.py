"""Cost by day, task or resource as a plotly chart."""

from __future__ import annotations

from typing import Any

from tessera_hub.client import TesseraClient
from tessera_hub.client.lab import dark_theme
from tessera_hub.client.wording import dimension, money
from tessera_hub.i18n import gettext as _
from tessera_hub.i18n import language
from tessera_hub.schemas.bills import CostTable
from tessera_widgets.errors import WidgetError


def cost_figure(table: CostTable) -> Any:
    """Return a plotly figure of *table*; the exact amount stands at every bar, since a chart's axis is a float.

    Raises:
        WidgetError: plotly is not installed.
    """
    try:
        import plotly.graph_objects as go
    except ImportError as error:
        raise WidgetError(_("Cost charts need plotly; install it with `pip install 'tessera-hub[widgets]'`.")) from error
    names = [dimension(row.key) if table.by == "resource" else row.title or row.key for row in table.rows]
    texts = [money(row.amount_micro, row.currency) for row in table.rows]
    bars = go.Bar(
        x=[row.key for row in table.rows],
        y=[row.amount_micro / 1_000_000 for row in table.rows],
        text=texts,
        hovertext=[f"{name}: {text}" for name, text in zip(names, texts, strict=True)],
        hoverinfo="text",
    )
    titles = {
        "day": _("Cost by day"),
        "task": _("Cost by task"),
        "resource": _("Cost by resource"),
        "person": _("Cost by person"),
    }
    total = money(table.amount_micro, table.currency)
    figure = go.Figure(bars)
    figure.update_layout(
        title=f"{titles.get(table.by, table.by)} · {_('Total: {amount}', amount=total)}",
        # Money is written out: neither 25µ nor 2.5e-05.
        yaxis={"title": table.currency, "rangemode": "tozero", "exponentformat": "none", "visible": bool(table.rows)},
        # By key: tasks of one name have a bar each.
        xaxis={
            "type": "category",
            "tickvals": [row.key for row in table.rows],
            "ticktext": names,
            "visible": bool(table.rows),
        },
        template=_template(),
        height=360,
        margin={"l": 60, "r": 20, "t": 60, "b": 40},
    )
    if not table.rows:
        figure.add_annotation(
            text=_("Nothing was spent in this time."), showarrow=False, xref="paper", yref="paper", x=0.5, y=0.5
        )
    return figure


def _template() -> str | None:
    """The person's own template, if they set one; else one that goes with Lab's theme."""
    import plotly.io

    if plotly.io.templates.default != "plotly":
        return None
    return "plotly_dark" if dark_theme() else "simple_white"


def cost_chart(
    by: str = "day",
    *,
    client: TesseraClient | None = None,
    start: str | None = None,
    end: str | None = None,
    tenant: str | None = None,
    mine: bool = True,
) -> Any:
    """Return a chart of cost ``by`` day, task, resource or person. It keeps its bars in a saved notebook.

    Raises:
        TesseraError: as the service refuses.
        WidgetError: plotly is not installed.
    """
    with client or TesseraClient() as connected, language(connected.speak):
        return cost_figure(connected.costs(by, start=start, end=end, tenant=tenant, mine=mine))
