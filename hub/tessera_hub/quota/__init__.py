"""Tenants, queues and limits.

``tree.py`` reads the queue tree; ``usage.py`` takes and gives back, race-free; ``tenants.py`` keeps principals,
memberships and the default queue of a tenant in step with JupyterHub.
"""

from .tree import QueueNode, QueueTree, load_tree
from .usage import QuotaExceeded, deltas_for, give_back, take

__all__ = ["QueueNode", "QueueTree", "QuotaExceeded", "deltas_for", "give_back", "load_tree", "take"]
