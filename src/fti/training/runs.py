"""What became of training runs: a run whose process is gone is no running run."""

from __future__ import annotations

import os
import socket

from mlflow import MlflowClient
from mlflow.entities import Run, RunStatus

PROCESS_TAG = "process"
HERE = socket.gethostname()


def claim(client: MlflowClient, run_id: str) -> None:
    """Write which process carries the run out, and mark as failed those runs on this machine whose process was killed.

    A killed process cannot do that itself. Nothing of such a run is registered: that is a run's last step.
    """
    run = client.get_run(run_id)
    client.set_tag(run_id, PROCESS_TAG, f"{HERE}:{os.getpid()}")
    running = client.search_runs(
        [run.info.experiment_id], f"attributes.status = 'RUNNING' AND tags.{PROCESS_TAG} != ''"
    )
    for other in running:
        host = other.data.tags[PROCESS_TAG].rpartition(":")[0]
        if other.info.run_id != run_id and host == HERE and not is_carried_out(other):
            client.set_terminated(other.info.run_id, RunStatus.to_string(RunStatus.FAILED))


def is_carried_out(run: Run) -> bool:
    """Whether the process of a run is on this machine and alive: it may still judge and promote what it trained."""
    host, _, pid = run.data.tags.get(PROCESS_TAG, "").rpartition(":")
    if host != HERE:
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
