"""The Proxy's own account with exactly the rights of its manifest, to try what it may and what it may not."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

from tessera_hub.proxy.drivers.kubernetes.objects import NAMESPACES
from tessera_hub.proxy.drivers.kubernetes.permissions import manifest
from tests.cluster.centre import account_token, apply, remove
from tests.cluster.machine import Machine
from volcano_client import ClusterApiError, Collection, Transport


def refused(call: Callable[[], object]) -> bool:
    """Whether the API server forbids it, by its rules or by the admission policy."""
    try:
        call()
    except ClusterApiError as error:
        return error.status in (403, 422) and error.reason in ("Forbidden", "Invalid")
    return False


class Rights:
    """The account, ``mine``, and the administrator beside it, of a prefix of its own."""

    def __init__(self, cluster: Machine, admin: Transport, folder: Path) -> None:
        self.admin = admin
        self.prefix = f"r{uuid4().hex[:8]}"
        self.objects = manifest(self.prefix, kubelets=True)
        apply(admin, self.objects)
        kubeconfig = folder / "kubeconfig"
        kubeconfig.write_text(json.dumps(cluster.kubeconfig_for(account_token(admin, f"{self.prefix}-system"))))
        self.mine = Transport.from_kubeconfig(kubeconfig)
        # The API server takes a new admission policy up within some seconds.
        probe = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "probe"}}
        deadline = time.monotonic() + 30
        while not refused(lambda: Collection(self.mine, NAMESPACES).check(probe)):
            assert time.monotonic() < deadline, "the admission policy is not taken up"
            time.sleep(0.2)

    def close(self) -> None:
        """Take the account away."""
        self.mine.close()
        remove(self.admin, self.objects)
