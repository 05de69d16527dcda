"""Live views of tasks, quotas and cost in any notebook.

    from tessera_widgets import TaskView, QuotaView, SubmitForm, cost_chart

    TaskView(client.submit("train.ipynb"))

They update in the background, and a view left in a saved notebook shows its last state.
"""

from .costs import cost_chart, cost_figure
from .errors import WidgetError
from .form import SubmitForm
from .live import LiveView
from .quota import QuotaView
from .task import TaskView

__all__ = ["LiveView", "QuotaView", "SubmitForm", "TaskView", "WidgetError", "cost_chart", "cost_figure"]
