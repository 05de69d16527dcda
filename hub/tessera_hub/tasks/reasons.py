"""The stable reason codes and their texts in the reader's language."""

from __future__ import annotations

from string import Formatter
from typing import Any, Final

from tessera_hub.i18n import gettext
from tessera_hub.schemas.reasons import Reason, Tier


def _(message: str) -> str:
    """Mark *message* for the catalogue; it is translated when a reason is shown."""
    return message


REASONS: Final[dict[str, tuple[Tier, str]]] = {
    # 0 misconfigured
    "notebook.invalid": (Tier.MISCONFIGURED, _("The notebook cannot be read: it is not valid JSON of the notebook format.")),
    "notebook.missing": (Tier.MISCONFIGURED, _("The notebook is not among the files of the task.")),
    "kernel.unknown": (Tier.MISCONFIGURED, _("The environment has no kernel of this name.")),
    "environment.unknown": (Tier.MISCONFIGURED, _("No connected cluster has this environment.")),
    "environment.missing_package": (Tier.MISCONFIGURED, _("The environment lacks a package that is needed to run notebooks.")),
    "parameter.unknown": (Tier.MISCONFIGURED, _("The notebook declares no such parameter.")),
    "parameter.type": (Tier.MISCONFIGURED, _("A parameter has a value of the wrong type.")),
    "parameter.language": (Tier.MISCONFIGURED, _("Parameters cannot be passed to a notebook of this language.")),
    "parameter.name": (Tier.MISCONFIGURED, _("A parameter's name cannot be a variable of the notebook's language.")),
    "script.missing": (Tier.MISCONFIGURED, _("The script is not among the files of the task.")),
    "script.unsupported": (Tier.MISCONFIGURED, _("A file of this type cannot be run as a script.")),
    "kernel.start_failed": (Tier.MISCONFIGURED, _("The kernel of the notebook does not start.")),
    "inputs.live_refused": (Tier.MISCONFIGURED, _("The folder is not in the person's own storage at this cluster.")),
    "dataset.unknown": (Tier.MISCONFIGURED, _("The cluster has no such data set, or it is not open to this tenant.")),
    "secret.unknown": (Tier.MISCONFIGURED, _("The cluster knows no such secret.")),
    "principal.name": (Tier.MISCONFIGURED, _("The person's name cannot name a folder at this cluster.")),
    "principal.uid_range": (Tier.MISCONFIGURED, _("The cluster has no Unix account left for this person; ask its operator.")),
    "principal.no_account": (Tier.MISCONFIGURED, _("The person has no Unix account at this cluster; ask its operator.")),
    "queue.unknown": (Tier.MISCONFIGURED, _("There is no such queue.")),
    "cluster.unknown": (Tier.MISCONFIGURED, _("There is no such cluster.")),
    "principal.single_person": (Tier.MISCONFIGURED, _("This machine serves one person only; ask its operator.")),
    "policy.unknown": (Tier.MISCONFIGURED, _("There is no such placement policy; an administrator can correct the queue.")),
    "task.unreadable": (Tier.MISCONFIGURED, _("The task as it is stored cannot be read by this version; submit it anew.")),
    "request.empty": (Tier.MISCONFIGURED, _("The task asks for nothing, or for a negative amount.")),
    # 1 never fits
    "never.exceeds_limit": (Tier.NEVER_FITS, _("This asks for more than the queue's limit will ever allow.")),
    "never.no_card_class": (Tier.NEVER_FITS, _("No connected cluster has such a card.")),
    "never.no_card_mode": (Tier.NEVER_FITS, _("No connected cluster hands its cards out in this way.")),
    "never.no_partition": (Tier.NEVER_FITS, _("No connected cluster divides its cards into partitions of exactly this size.")),
    "never.no_gang": (Tier.NEVER_FITS, _("No connected cluster can start several parts together.")),
    "never.no_services": (Tier.NEVER_FITS, _("No connected cluster keeps a service running.")),
    "never.too_large": (Tier.NEVER_FITS, _("No node of any cluster is large enough.")),
    "never.gang_too_large": (Tier.NEVER_FITS, _("No cluster is large enough to start all parts together.")),
    "never.time_limit": (Tier.NEVER_FITS, _("The cluster lets no run last as long as this asks for.")),
    "never.no_cluster": (Tier.NEVER_FITS, _("No cluster accepts this kind of task.")),
    # 2 policy
    "policy.queue_closed": (Tier.POLICY, _("The queue is closed.")),
    "policy.filtered": (Tier.POLICY, _("The placement policy excludes the clusters that could run it.")),
    "policy.not_before": (Tier.POLICY, _("The task starts at its planned time.")),
    "schedule.refused": (Tier.POLICY, _("The planned task was refused when its time came.")),
    "policy.cancelled": (Tier.POLICY, _("The task was cancelled.")),
    "policy.preempted": (Tier.POLICY, _("The task made room for a more important one.")),
    "policy.membership": (Tier.POLICY, _("The owner does not belong to this tenant any more.")),
    "environment.not_allowed": (Tier.POLICY, _("This environment is not open to your groups.")),
    "cluster.held": (Tier.POLICY, _("The cluster's operators hold the run back.")),
    # 3 quota
    "quota.waiting": (Tier.QUOTA, _("The queue's quota is in use.")),
    "quota.reserved": (Tier.QUOTA, _("The quota that is left is kept for a task that waits longer.")),
    "quota.behind": (Tier.QUOTA, _("Other tasks are ahead in the queue.")),
    "quota.native": (Tier.QUOTA, _("The cluster's own quota for this account is in use.")),
    # 4 capacity
    "capacity.no_free_cards": (Tier.CAPACITY, _("All suitable cards are in use.")),
    "capacity.no_free_node": (Tier.CAPACITY, _("No node has enough free processor time or memory.")),
    "capacity.fragmented": (Tier.CAPACITY, _("Enough is free in total, but not in one piece.")),
    "capacity.gang": (Tier.CAPACITY, _("Not all parts can start together yet.")),
    "capacity.reserved": (Tier.CAPACITY, _("What is free is kept for a task that waits longer.")),
    "capacity.holds_reservation": (Tier.CAPACITY, _("Room is being kept for this task.")),
    # 5 cluster
    "cluster.unreachable": (Tier.CLUSTER, _("The cluster cannot be reached at the moment.")),
    "cluster.suspect": (Tier.CLUSTER, _("The cluster has not reported for a while.")),
    "cluster.draining": (Tier.CLUSTER, _("The cluster takes no new tasks.")),
    "cluster.back_pressure": (Tier.CLUSTER, _("The cluster is busy taking earlier tasks.")),
    "cluster.no_workspaces": (Tier.CLUSTER, _("The cluster does not run workspaces.")),
    "cluster.not_allowed": (Tier.CLUSTER, _("The cluster is not open to this tenant or task.")),
    "cluster.environment": (Tier.CLUSTER, _("The cluster does not have the environment.")),
    "cluster.no_dataset": (
        Tier.CLUSTER,
        _("The cluster lacks a data set of the task, or it is not open to this tenant."),
    ),
    "dataset.missing": (Tier.CLUSTER, _("A data set is not where the cluster's operator said; tell the operator.")),
    "cluster.starting": (Tier.CLUSTER, _("The cluster is starting the task.")),
    "cluster.waiting": (Tier.CLUSTER, _("The cluster has not decided about the run yet.")),
    "cluster.queued": (Tier.CLUSTER, _("Other work is ahead in the cluster's own queue.")),
    "cluster.refused": (Tier.CLUSTER, _("The cluster refused the run for this account.")),
    "cluster.nodes_down": (Tier.CLUSTER, _("Nodes that the run needs are out of service.")),
    "cluster.cancelled": (Tier.CLUSTER, _("The run was cancelled in the cluster itself.")),
    "cluster.image": (Tier.CLUSTER, _("The cluster cannot get the image of the environment.")),
    "cluster.taint": (Tier.CLUSTER, _("The nodes that would fit are kept for other work.")),
    "cluster.affinity": (Tier.CLUSTER, _("No node is of the kind that the run asks for.")),
    "cluster.volume": (Tier.CLUSTER, _("A volume of the run is not ready.")),
    "cluster.evicted": (Tier.CLUSTER, _("The cluster took the node away from the run.")),
    "cluster.start_failed": (Tier.CLUSTER, _("The cluster could not start the task.")),
    "cluster.lost": (Tier.CLUSTER, _("The run vanished from the cluster without a result.")),
    "cluster.gave_back": (Tier.CLUSTER, _("The cluster gave the task back; it is placed elsewhere.")),
    "inputs.missing": (Tier.CLUSTER, _("An input file is not in the store any more.")),
    # how user code ended
    "kernel.died": (Tier.CLUSTER, _("The kernel died.")),
    "cell.error": (Tier.CLUSTER, _("A cell raised an error.")),
    "script.exit": (Tier.CLUSTER, _("The script ended with an error.")),
    "limit.time": (Tier.CLUSTER, _("The time limit was reached.")),
    "limit.memory": (Tier.CLUSTER, _("The memory limit was reached.")),
    "disk.full": (Tier.CLUSTER, _("The disk is full.")),
    "runner.internal": (Tier.CLUSTER, _("The program that runs tasks failed itself.")),
    "run.invalid": (Tier.CLUSTER, _("The program that runs tasks cannot read what it is asked to do.")),
    "claim.refused": (Tier.CLUSTER, _("The service refused to let this attempt start.")),
    "claim.unreachable": (Tier.CLUSTER, _("The service could not be asked whether this attempt may start.")),
    "claimed.elsewhere": (Tier.CLUSTER, _("Another process already runs this attempt.")),
    "signal.term": (Tier.CLUSTER, _("The run was told to stop.")),
    # notes on a run that went on
    "outputs.cut": (Tier.CLUSTER, _("Some result files were not kept.")),
    "output.truncated": (Tier.CLUSTER, _("Output beyond the limit was not kept.")),
    "parameter.no_cell": (Tier.CLUSTER, _("The notebook has no cell for parameters; they were put at its top.")),
    "notebook.exit_early": (Tier.CLUSTER, _("The notebook ended itself before its last cell.")),
    "workspace.start_failed": (Tier.CLUSTER, _("The workspace did not start.")),
    "workspace.expired": (Tier.POLICY, _("The reservation ran out before the workspace started.")),
    "workspace.gone": (Tier.CLUSTER, _("The workspace ended while nobody could report it.")),
    "workspace.ended": (Tier.CLUSTER, _("The workspace's process ended by itself.")),
    "workspace.stopped": (Tier.POLICY, _("The workspace was stopped.")),
    "workspace.idle": (Tier.POLICY, _("The workspace was idle and was stopped.")),
    "workspace.idle_warned": (Tier.POLICY, _("The workspace is idle and will be stopped.")),
    "workspace.active": (Tier.POLICY, _("The workspace is in use again.")),
    "workspace.kept": (Tier.POLICY, _("The workspace is kept although it is idle.")),
}

PARTICULARS: Final[dict[str, tuple[str, ...]]] = {
    "notebook.invalid": (_("Line {line}, column {column}: {problem}."),),
    "parameter.type": (_("Parameter {name} must be {expected}, not {value}."),),
    "kernel.start_failed": (_("Kernel {kernel}: {problem}"),),
    "inputs.live_refused": (_("Folder: {folder}"),),
    "secret.unknown": (_("Secret: {reference}"),),
    "dataset.unknown": (_("Data set: {dataset}"),),
    "dataset.missing": (_("Data set: {dataset}"),),
    "cluster.no_dataset": (_("Data set: {dataset}"),),
    "environment.unknown": (_("Environment: {environment}"),),
    "kernel.died": (_("It was ended by {signal} in cell {cell}."), _("It ended with status {status} in cell {cell}.")),
    "cell.error": (_("Cell {cell} of {cells_total}: {ename}: {evalue}"),),
    "script.exit": (_("It was ended by {signal}."), _("Exit status {exit_code}. {last_line}"), _("Exit status {exit_code}.")),
    "limit.time": (_("The limit is {limit_seconds} s."),),
    "limit.memory": (_("The limit is {limit_mib} MiB; at most {peak_mib} MiB were in use."),),
    "disk.full": (_("{free_bytes} of {size_bytes} bytes are free."),),
    "runner.internal": (_("Its error: {problem}"),),
    "workspace.idle": (_("Nothing ran in it for {minutes} min."),),
    "workspace.idle_warned": (_("Nothing ran in it for {minutes} min; it stops in {grace_minutes} min."),),
    "workspace.kept": (_("For {minutes} min."),),
}
"""What the details of a reason say, the first sentence for which all are there; it stands in for the engine's English words."""


def tier_of(code: str) -> Tier:
    """Return the tier of *code*; an unknown code (a newer Proxy's) has tier 5."""
    return REASONS[code][0] if code in REASONS else Tier.CLUSTER


def reason(code: str, **detail: Any) -> Reason:
    """Return the typed reason of *code*."""
    return Reason(tier=tier_of(code), code=code, detail=detail)


def localised(value: dict[str, Any] | Reason) -> Reason:
    """Return a stored reason with its text in the current language.

    What its details say, in the reader's language, or else a message that came along (an engine's own words) follows the
    translated sentence.
    """
    found = Reason.model_validate(value) if isinstance(value, dict) else value
    text = REASONS.get(found.code, (found.tier, ""))[1]
    own = _particulars(found) or gettext(found.message)
    message = gettext(text) if text else ""
    if own and own != message:
        message = f"{message} {own}".strip()
    return found.model_copy(update={"message": message or found.code})


def _particulars(found: Reason) -> str:
    """Return what the details say; empty if they say nothing that has words."""
    for sentence in PARTICULARS.get(found.code, ()):
        names = [name for _text, name, _format, _conversion in Formatter().parse(sentence) if name]
        if all(isinstance(found.detail.get(name), int | str) and found.detail[name] != "" for name in names):
            return gettext(sentence, **{name: found.detail[name] for name in names})
    return ""
