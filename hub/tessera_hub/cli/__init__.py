"""The command line ``tessera``.

Exit codes: 0 done · 1 the task failed or was cancelled · 2 refused, or wrong use · 3 the service cannot be reached · 4 not signed
in · 130 interrupted.
"""

from .root import main, root

__all__ = ["main", "root"]
