"""Workspaces as pods of a Kubernetes cluster.

KubeSpawner makes and deletes the pod; this class decides what is in it (from the reservation, never from a person's own
options), watches the start beside it, and reads from the pod why it waits, fails or ended. The cluster's Proxy sees the pod by
its labels as that of the workspace run and counts it among ours; it neither starts nor ends nor meters it, all of which is done
from here.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import Mapping
from datetime import datetime
from typing import Any, ClassVar, Final, cast

from aiohttp import ClientError
from kubernetes_asyncio.client.exceptions import ApiException
from kubespawner import KubeSpawner
from kubespawner.clients import shared_client
from pydantic import TypeAdapter, ValidationError
from traitlets import Bool, Bunch, Dict, Enum, Integer, TraitError, Unicode, default, validate

from tessera_hub.i18n import gettext as _
from tessera_hub.i18n import language
from tessera_hub.proxy.drivers.base import DriverError
from tessera_hub.proxy.drivers.datasets import PODS_FOLDER, ClaimDataset, claim_volumes, opened
from tessera_hub.proxy.drivers.kubernetes.queues import queue_name
from tessera_hub.proxy.drivers.outcome import reason_of
from tessera_hub.schemas.bounds import DatasetName
from tessera_hub.schemas.reasons import Reason
from tessera_hub.schemas.workspaces import Reservation
from tessera_hub.tasks.reasons import localised
from tessera_spawner.base import WITHDRAWN_CHECK_SECONDS, TesseraSpawner, memory_limit_mib
from tessera_spawner.failures import StartRefused
from tessera_spawner.pod_events import end_of, ended_at, is_hopeless, is_stuck, notice_of, of_api_error, started_at, waits_for
from tessera_spawner.pods import (
    QUEUE_ANNOTATION,
    RESTRICTED,
    by_name,
    cards_of,
    first_time_container,
    home_name,
    joined_terms,
    labels_of,
)
from volcano_client.objects import PREEMPTABLE

LOOK_SECONDS: Final = 0.5
LAST_WORDS_SECONDS: Final = 5
"""How long before the hub loses patience a start that still waits is ended, with its reason."""
DELETE_SECONDS: Final = 600
"""For so long the deletion of a pod is tried."""
DECLARED: Final = TypeAdapter(dict[DatasetName, ClaimDataset])
VOLCANO_GROUP: Final = "scheduling.volcano.sh"


class TesseraKubeSpawner(TesseraSpawner, KubeSpawner):  # type: ignore[misc]  # JupyterHub has no types
    """JupyterLab as a pod."""

    environments = Dict(
        help="Environment → image. Example: ``c.TesseraKubeSpawner.environments = {'default': 'example.org/notebook:1'}``"
    ).tag(config=True)
    site = Unicode("tessera", help="Namespace prefix of the cluster's Proxy, by which it knows what is its own.").tag(config=True)
    pod_service_url = Unicode(help="Address of the service as pods reach it; empty: as people do.").tag(config=True)
    volcano = Enum(["auto", "yes", "no"], "auto", help="Let Volcano place the pods: where it is, always, never.").tag(config=True)
    queue = Unicode("default", help="Volcano's queue for workspaces whose own queue is not there.").tag(config=True)
    hold_to_processors = Bool(
        False, help="Hold a workspace to its processors even when others are idle; else they are in proportion to what was asked."
    ).tag(config=True)
    patience_seconds = Integer(
        90, help="How long an image that cannot be fetched, or a missing secret, is waited for before the start is given up."
    ).tag(config=True)
    home_path = Unicode("/home/person", help="Where the person's volume is in the container.").tag(config=True)
    datasets = Dict(
        help="Data set → claim of the pods' namespace, folder, tenants, as in the settings of the cluster's Proxy. "
        "Example: ``c.TesseraKubeSpawner.datasets = {'imagenet': {'claim': 'imagenet', 'tenants': ['vision']}}``"
    ).tag(config=True)
    examples = Bool(True, help="Copy the image's ``/opt/examples`` into a new home.").tag(config=True)

    profile_list: ClassVar[tuple[()]] = ()
    """What is offered is the service's form; a profile would be a way round the reservation."""
    delete_stopped_pods: ClassVar[bool] = False
    """Not by KubeSpawner's poll, which would report a crash as a stop: see :meth:`poll`."""

    # Traits of KubeSpawner's that are set here.
    cpu_limit: Any
    extra_resource_limits: Any
    tolerations: Any
    node_affinity_required: Any
    extra_labels: Any
    extra_annotations: Any
    volumes: Any
    volume_mounts: Any
    init_containers: Any

    _pod: Mapping[str, Any] | None = None
    _clears = False
    """A pod of this run that a killed hub left is being removed."""

    def __init__(self, *arguments: Any, **values: Any) -> None:
        super().__init__(*arguments, **values)
        self._own_limits = dict(self.extra_resource_limits)
        self._own_annotations = by_name(self.extra_annotations)
        self._own_tolerations = list(by_name(self.tolerations).values())
        self._own_terms = list(by_name(self.node_affinity_required).values())
        self._own_volumes = by_name(self.volumes)
        self._own_mounts = by_name(self.volume_mounts)

    @validate("datasets")
    def _check_datasets(self, proposal: Bunch) -> dict[str, ClaimDataset]:
        try:
            return DECLARED.validate_python(proposal.value)
        except ValidationError as error:
            first = error.errors()[0]
            raise TraitError(f"datasets.{'.'.join(map(str, first['loc']))}: {first['msg']}") from error

    # -- what every pod has

    @default("cmd")
    def _default_command(self) -> list[str]:
        return ["python3", "-m", "tessera_hub.launcher", "jupyterhub.singleuser"]

    @default("container_security_context")
    def _default_container_security(self) -> dict[str, Any]:
        return dict(RESTRICTED)

    @default("pod_security_context")
    def _default_pod_security(self) -> dict[str, Any]:
        return {"runAsNonRoot": True, "fsGroupChangePolicy": "OnRootMismatch", "seccompProfile": {"type": "RuntimeDefault"}}

    @default("uid")
    def _default_uid(self) -> int:
        return 1000

    @default("gid")
    def _default_gid(self) -> int:
        return 1000

    @default("fs_gid")
    def _default_fs_gid(self) -> int:
        return 1000

    @default("extra_pod_config")
    def _default_pod_config(self) -> dict[str, Any]:
        return {"enableServiceLinks": False}

    @default("delete_grace_period")
    def _default_grace(self) -> int:
        return 10

    @default("storage_pvc_ensure")
    def _default_storage(self) -> bool:
        return True

    # -- what was granted

    def apply_reservation(self, reservation: Reservation) -> None:
        """Take what was granted: image, amounts, labels, the person's volume. Values are set anew, never changed in place."""
        super().apply_reservation(reservation)
        assert reservation.spec is not None
        role = reservation.spec.roles[0].resources
        self.image = self._image(reservation.spec.environment)
        self.cpu_guarantee = role.cpu_millicores / 1000
        self.cpu_limit = self.cpu_guarantee if self.hold_to_processors else None
        self.mem_guarantee = role.memory_mib << 20
        self.mem_limit = memory_limit_mib(role.memory_mib) << 20
        self.extra_labels = by_name(self.extra_labels) | labels_of(reservation, self.site)
        # One name for each run: what a former one left behind has another, and so have its events.
        self.pod_name = f"tessera-{reservation.run_id}"
        self.dns_name = self.dns_name_template.format(namespace=self.namespace, name=self.pod_name)
        self.working_dir = self.home_path
        volumes, mounts = dict(self._own_volumes), dict(self._own_mounts)
        if self.storage_pvc_ensure:
            self.pvc_name, self._pvc_exists = home_name(reservation), False
            volumes["home"] = {"name": "home", "persistentVolumeClaim": {"claimName": self.pvc_name}}
            mounts["home"] = {"name": "home", "mountPath": self.home_path}
            if self.examples:
                first = first_time_container(self.image, self.home_path)
                self.init_containers = by_name(self.init_containers) | {"home": first}
        for volume, mount in claim_volumes(self._readable(reservation)):
            volumes[volume["name"]], mounts[volume["name"]] = volume, mount
        self.volumes, self.volume_mounts = volumes, mounts

    def _readable(self, reservation: Reservation) -> dict[str, ClaimDataset]:
        """Return the data sets that were granted. The service has looked who may read them; what is declared here counts, too."""
        assert reservation.spec is not None
        try:
            return opened(reservation.spec.datasets, reservation.tenant, self.datasets)
        except DriverError as error:
            raise self._refused(error.reason, 409) from error

    def _image(self, environment: str) -> str:
        if environment not in self.environments:
            raise self._refused(reason_of("environment.unknown", "", {"environment": environment}), 409)
        return str(self.environments[environment])

    async def _take_cards(self, reservation: Reservation) -> None:
        """Look how the cluster hands its cards out, and ask for those that were granted."""
        assert reservation.spec is not None
        nodes: list[dict[str, Any]] = []
        if reservation.spec.roles[0].resources.cards is not None:
            answer = await self.api.list_node(_preload_content=False)
            nodes = json.loads(await answer.read())["items"]
        try:
            cards = cards_of(reservation, nodes)
        except DriverError as error:
            raise self._refused(error.reason, 409) from error
        self.extra_resource_limits = {**self._own_limits, **cards.limits}
        self.extra_annotations = {**self._own_annotations, **cards.annotations}
        self.tolerations = [*self._own_tolerations, *cards.tolerations]
        self.node_affinity_required = joined_terms(self._own_terms, cards.terms)

    async def _take_queue(self, reservation: Reservation) -> None:
        """Let Volcano place the pod where it is, in the queue of the reservation if Volcano has it."""
        if self.volcano == "no" or (self.volcano == "auto" and not await self._has_volcano()):
            return
        self.scheduler_name = "volcano"
        queue = queue_name(reservation.queue, self.site) if reservation.queue else self.queue
        try:
            await shared_client("CustomObjectsApi").get_cluster_custom_object(VOLCANO_GROUP, "v1beta1", "queues", queue)
        except ApiException as error:
            if error.status not in (403, 404):
                raise
            queue = self.queue
        told = {QUEUE_ANNOTATION: queue, PREEMPTABLE: "false"}  # nobody's work is taken away to make room
        self.extra_annotations = by_name(self.extra_annotations) | told

    async def _has_volcano(self) -> bool:
        found = await shared_client("ApisApi").get_api_versions()
        return any(group.name == VOLCANO_GROUP for group in found.groups)

    def get_env(self) -> dict[str, str]:
        """Return the server's environment."""
        env = super().get_env()
        name = str(cast("Any", self.user).name)
        env |= {"HOME": self.home_path, "USER": name, "LOGNAME": name}
        env["JUPYTERHUB_SINGLEUSER_APP"] = "jupyter_server.serverapp.ServerApp"
        if self.pod_service_url:
            env["TESSERA_URL"] = self.pod_service_url
        if self.cpu_guarantee:
            env["OMP_NUM_THREADS"] = str(max(1, int(self.cpu_guarantee)))
        if self.reservation is not None and self.reservation.card_class:
            env["TESSERA_CARD_CLASS"] = self.reservation.card_class
        if self.reservation is not None and self.reservation.spec is not None and self.reservation.spec.datasets:
            env["TESSERA_DATASETS"] = PODS_FOLDER
        return env

    async def load_user_options(self) -> None:
        """Take nothing from a person's options: what was picked is in the reservation."""

    # -- the start

    async def look_around(self, reservation: Reservation) -> None:
        """Look how the cluster hands out its cards, and whether Volcano is there.

        Raises:
            SpawnException: the API server refuses, or the cluster has no such cards.
        """
        try:
            await self._take_cards(reservation)
            await self._take_queue(reservation)
        except ApiException as error:
            raise self._refused(of_api_error(error), 503) from error

    async def _start(self) -> Any:
        """Make the pod and wait until it runs; meanwhile see whether it still can, and whether it is still wanted.

        Raises:
            SpawnException: it cannot come up, with the reason, or was cancelled.
        """
        reservation = self.reservation
        if reservation is None:
            return await super()._start()
        self._pod = None
        try:
            self._keep_state()
            work, watch = asyncio.ensure_future(super()._start()), asyncio.ensure_future(self._watch(reservation))
            try:
                await asyncio.wait({work, watch}, return_when=asyncio.FIRST_COMPLETED)
                return await (work if work.done() else watch)
            finally:
                for task in (work, watch):
                    task.cancel()
                await asyncio.gather(work, watch, return_exceptions=True)
        except ApiException as error:
            raise self._refused(of_api_error(error), 503) from error

    async def _watch(self, reservation: Reservation) -> None:
        """Tell what the pod's events say, and end a start that cannot succeed. Returns never."""
        began = time.monotonic()
        check, stuck_since, known = began + WITHDRAWN_CHECK_SECONDS, None, None
        told: set[str] = set()
        deadline = began + max(self.start_timeout - LAST_WORDS_SECONDS, 1)
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            now, pod = time.monotonic(), None if self._clears else self._seen()
            for event in self.events:
                if event["metadata"]["uid"] not in told and (notice := notice_of(event)) is not None:
                    self._tell(notice)
                told.add(event["metadata"]["uid"])
            reason = waits_for(pod)
            if (reason and reason.code) != known:
                known = reason and reason.code
                self._report(reservation, "STARTING", **_told(reason))
            stuck_since = None if pod is None or not is_stuck(pod) else stuck_since or now
            if pod is not None and is_hopeless(pod):
                raise self._refused(end_of(pod) or reason or reason_of("workspace.start_failed"), 409)
            if stuck_since is not None and now - stuck_since > self.patience_seconds:
                raise self._refused(reason or reason_of("workspace.start_failed"), 409)
            if now > deadline:
                # By the hub's own time-out it would count as an error of the installation.
                raise self._refused(reason or reason_of("workspace.start_failed", "the pod did not start in time"), 503)
            if now > check:
                await self._check_withdrawn(reservation)
                check = time.monotonic() + WITHDRAWN_CHECK_SECONDS

    def _seen(self) -> Mapping[str, Any] | None:
        """Return the pod as the watch shows it now; None if it is not there."""
        reflector = self.pod_reflector
        pod = None if reflector is None else reflector.pods.get(f"{self.namespace}/{self.pod_name}")
        if pod is not None:
            self._pod = pod
        return cast("Mapping[str, Any] | None", pod)

    def _refused(self, reason: Reason, status: int) -> StartRefused:
        with language(self._language()):
            message = localised(reason.model_copy(update={"message": ""})).message
            if reason.code == "cluster.image":
                message = f"{message} {_('Choose another environment, or ask whoever operates this installation.')}"
        return StartRefused(message, reason, status)

    async def _make_create_pod_request(self, pod: Any, request_timeout: float) -> bool:
        """Create the pod; False: try again. Unlike KubeSpawner's this writes no pod, which holds a token, into the log."""
        try:
            await asyncio.wait_for(self.api.create_namespaced_pod(self.namespace, pod), request_timeout)
        except TimeoutError:
            return False
        except ApiException as error:
            if error.status != 409:
                raise
            # The pod of this very run, of a hub that was killed while it started it.
            self._clears = True
            try:
                await KubeSpawner.stop(self, now=True)
            finally:
                self._clears = False
            return False
        return True

    async def stop(self, now: bool = False) -> None:
        """Delete the pod and wait until it is gone; an API server that is away is waited for longer than at a start."""
        name = "k8s_api_request_retry_timeout"
        usual = self.trait_values()[name]
        self.set_trait(name, max(usual, DELETE_SECONDS))
        try:
            await super().stop(now=now)
        finally:
            self.set_trait(name, usual)

    async def _make_delete_pod_request(
        self, pod_name: str, delete_options: Any, grace_seconds: int, request_timeout: float
    ) -> bool:
        """Delete the pod; False: try again. KubeSpawner's gives up at the first error, and the pod would run on unpaid."""
        try:
            done = await super()._make_delete_pod_request(pod_name, delete_options, grace_seconds, request_timeout)
            return bool(done)
        except (ApiException, ClientError) as error:
            self.log.warning("cannot delete %s yet: %s %s", pod_name, type(error).__name__, getattr(error, "status", ""))
            return False

    # -- how it fares

    def native_id(self) -> str:
        """Return the pod's uid."""
        pod = self._seen() or self._pod
        return "" if pod is None else str(pod["metadata"]["uid"])

    def started_at(self, asked: datetime) -> datetime:
        """Return when the container started: fetching its image is not paid for."""
        return started_at(self._seen() or self._pod) or asked

    def ending(self, status: int) -> tuple[Reason, datetime | None]:
        """Return why the pod ended, in the engine's words and by its clock."""
        pod = self._seen()
        reason = end_of(pod) or reason_of("workspace.ended", "", {"exit_code": status})
        return reason, ended_at(pod)

    async def poll(self) -> Any:
        """Return None while the pod lives, else its status; a pod that is over is removed once its end is read."""
        status = await super().poll()
        if status is not None and not self._starting and self._seen() is not None:
            with contextlib.suppress(ApiException, TimeoutError):  # the next look tries again
                await KubeSpawner.stop(self, now=True)
        return status


def _told(reason: Reason | None) -> dict[str, Any]:
    return {} if reason is None else {"reason": reason.code, "detail": reason.detail}
