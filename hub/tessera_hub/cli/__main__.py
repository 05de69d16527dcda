"""``python -m tessera_hub.cli``."""

from .root import main

main()
