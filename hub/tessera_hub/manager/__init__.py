"""The control side of a Proxy, stateless over the database.

Read ``sessions.py`` (who may speak for a cluster), ``reconcile.py`` (desired minus reported), ``events.py`` (what happened,
what it held) and ``watch.py`` (silence).
"""
