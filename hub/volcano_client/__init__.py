"""A thin typed client of Volcano (batch jobs, pod groups, queues, commands) over the official ``kubernetes`` client.

Builders (:mod:`volcano_client.objects`) are pure functions to plain dictionaries, so that any Kubernetes client can send them;
:mod:`volcano_client.collection` and :mod:`volcano_client.watching` send and follow them. Floor: Volcano 1.10; what is newer is
looked up in the CRD schema (:mod:`volcano_client.features`).
"""

from volcano_client.collection import Collection
from volcano_client.errors import ClusterApiError
from volcano_client.features import Features, detect
from volcano_client.kinds import COMMANDS, JOBS, POD_GROUPS, QUEUES, Kind
from volcano_client.objects import Task, command, job, pod_group, queue
from volcano_client.pending import Cause, causes_of_event, causes_of_pod, causes_of_pod_group
from volcano_client.phases import JobPhase, JobState, PodGroupPhase, job_state
from volcano_client.transport import Transport
from volcano_client.watching import Change, Mirror, follow

__all__ = [
    "COMMANDS",
    "JOBS",
    "POD_GROUPS",
    "QUEUES",
    "Cause",
    "Change",
    "ClusterApiError",
    "Collection",
    "Features",
    "JobPhase",
    "JobState",
    "Kind",
    "Mirror",
    "PodGroupPhase",
    "Task",
    "Transport",
    "causes_of_event",
    "causes_of_pod",
    "causes_of_pod_group",
    "command",
    "detect",
    "follow",
    "job",
    "job_state",
    "pod_group",
    "queue",
]
