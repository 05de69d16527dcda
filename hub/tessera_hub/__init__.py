"""Tessera's hub: one service that queues, places, runs and bills work on every connected compute centre.

``tessera_hub.client`` (the SDK) and ``tessera_hub.schemas`` import only pydantic and httpx; everything else needs the
``[hub]`` or ``[proxy]`` extra.
"""

__version__ = "0.1.0"
