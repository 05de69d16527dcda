"""Tables, sessions, wake-ups and migrations.

Read in this order: ``tables.py`` (what is stored), ``engine.py`` (:class:`Store`: ``async with store.write() as session``),
``notify.py`` (wake-ups with the commit), ``migrate.py`` (Alembic from Python).
"""

from .engine import Store, StoreError
from .types import UNLIMITED

__all__ = ["UNLIMITED", "Store", "StoreError"]
