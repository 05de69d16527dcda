"""The control side of a Proxy, stateless over the database.

Read ``sessions.py`` (who may speak for a cluster), ``reconcile.py`` (desired minus reported), ``leasing.py`` (what a Proxy is
told of a run that it is to start), ``events.py`` (what happened, what it held) and ``watch.py`` (silence).
"""
