"""The runner: executes one notebook or script as a run, in the environment's own Python, and leaves a full record.

``python -m tessera_lab.runner RUN_DIR`` or, where nothing of ours is installed, the zipapp that :func:`build_zipapp` writes. Only
``executor`` and ``kernel_outputs`` import more than the standard library, and only once it is known to be there: nbclient,
nbformat, jupyter_client and the kernel belong to the environment. The files in ``RUN_DIR`` are described
in ``docs/reference/runner.md``.
"""

from tessera_lab.runner.archive import build_zipapp
from tessera_lab.runner.errors import RunnerError

__all__ = ["RunnerError", "build_zipapp"]
