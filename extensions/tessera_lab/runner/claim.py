"""Claiming a run before any user code: the first wins, a loser leaves without a trace.

Source: protocol, "Starting": a lease token fences writes, not processes, so every runner claims its run with it.
"""

from __future__ import annotations

import json
import os
import socket
import time
import urllib.error
import urllib.request
from http import HTTPStatus
from pathlib import Path

from tessera_lab.runner.errors import RunnerError
from tessera_lab.runner.processes import start_ticks
from tessera_lab.runner.specification import Claim, RunSpecification
from tessera_lab.runner.storage import now_text, write_atomic

_FIRST_PAUSE_SECONDS = 0.5
_LONGEST_PAUSE_SECONDS = 15.0
_CALL_SECONDS = 20.0
_REFUSED = {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN, HTTPStatus.NOT_FOUND, HTTPStatus.GONE, HTTPStatus.UNPROCESSABLE_ENTITY}


def claim_run(run_dir: Path, specification: RunSpecification) -> None:
    """Make this process the only one that may run user code of the run.

    Raises:
        RunnerError: ``claimed.elsewhere`` (another was first), ``claim.refused`` (the lease is not ours any more) or
            ``claim.unreachable``. In each case the caller exits and writes nothing.
    """
    folder = run_dir / "claim"
    if specification.claim.kind == "http":
        _claim_over_http(specification.claim, specification.lease_token)
        folder.mkdir(exist_ok=True)
    else:
        try:
            folder.mkdir()
        except FileExistsError as error:
            raise RunnerError(
                "claimed.elsewhere", "another runner has claimed this run", {"run_id": specification.run_id}
            ) from error
    owner = {
        "lease_token": specification.lease_token,
        "pid": os.getpid(),
        "start_time": start_ticks(os.getpid()),
        "at": now_text(),
    }
    write_atomic(folder / "owner.json", (json.dumps(owner) + "\n").encode(), durable=True)


def claimant() -> str:
    """Who claims: the same text for every repeat of one process, another for any other process."""
    return f"{socket.gethostname()}/{os.getpid()}/{start_ticks(os.getpid())}"


def _claim_over_http(claim: Claim, lease_token: str) -> None:
    assert claim.url is not None
    body = json.dumps({"lease_token": lease_token, "who": claimant()}).encode()
    headers = {"Content-Type": "application/json"}
    if claim.token:
        headers["Authorization"] = f"Bearer {claim.token}"
    deadline = time.monotonic() + claim.timeout_seconds
    pause = _FIRST_PAUSE_SECONDS
    while True:
        # The scheme was checked with run.json.
        request = urllib.request.Request(claim.url, data=body, headers=headers, method="POST")  # noqa: S310
        try:
            with urllib.request.urlopen(request, timeout=_CALL_SECONDS):  # noqa: S310
                return
        except urllib.error.HTTPError as error:
            if error.code == HTTPStatus.CONFLICT:
                raise RunnerError("claimed.elsewhere", "another runner has claimed this run", {"url": claim.url}) from error
            if error.code in _REFUSED:
                raise RunnerError(
                    "claim.refused", f"the claim was refused with status {error.code}", {"status": error.code}
                ) from error
            problem = f"status {error.code}"
        except OSError as error:
            problem = str(getattr(error, "reason", error))
        if time.monotonic() + pause >= deadline:
            raise RunnerError(
                "claim.unreachable", f"the claim could not be made: {problem}", {"url": claim.url, "problem": problem}
            )
        time.sleep(pause)
        pause = min(pause * 2, _LONGEST_PAUSE_SECONDS)
