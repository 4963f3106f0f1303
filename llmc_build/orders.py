"""What a worker is told: the message that runs a target.  World.

Owns the parts of it that every rule's have, and those of shell steps; what a rule adds is the rule's.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from llmc_build import replies
from llmc_build.binding import Pending
from llmc_build.environment import step_environment
from llmc_build.execute.protocol import Task
from llmc_build.lanes import Lanes
from llmc_build.model import Action, Env, Json
from llmc_build.reads import Reads
from llmc_build.rules import rule
from llmc_build.store.files import write_atomic


class Orders:
    def __init__(
        self, reads: Reads, lanes: Lanes, environ: Mapping[str, str], workspace: Path, scratch: Path
    ) -> None:
        self._reads = reads
        self._lanes = lanes
        self._environ = environ
        self._workspace = str(workspace)
        self._scratch = str(scratch)
        self._bare = self._step_environment({}, ())  # of steps that declare nothing

    def task(self, action: Action, pending: Pending, number: int, logs: str | Path) -> Task:
        """Raises BindError, MissingSecret, OSError."""
        its = rule(action.rule)
        request = its.request(action, pending.bound)
        request["logs"] = str(logs)
        if its.lane == "shell":
            request["action"] = pending.key.text  # the worker writes it beside the logs
            request.update(self._shell_request(action, pending))
            uses = {use.slot: use for use in action.values}
            for variable in replies.objects(request["variables"]):
                variable["content"] = self._reads.content(uses[str(variable["slot"])])
        else:
            Path(logs).mkdir(mode=0o700, parents=True, exist_ok=True)  # of a sample: its own
            write_atomic(Path(logs, "action.json"), pending.key.text.encode())
        lane = self._lanes.lane(action, pending.bound.model)
        return Task(id=number, lane=lane, request=request, timeout_s=action.timeout_s)

    def _shell_request(self, action: Action, pending: Pending) -> dict[str, Json]:
        if not pending.env and not action.secrets:
            env, secrets = self._bare
        else:
            env, secrets = self._step_environment(pending.env, action.secrets)
        return {
            "env": env,
            "secrets": secrets,
            "sandbox": action.sandbox,
            "workspace": self._workspace,
            "scratch": self._scratch,
            "inputs": [[path, f"{self._workspace}/{path}"] for path in pending.files],
            "outputs": list(action.outputs),
        }

    def _step_environment(
        self, env: Mapping[str, str | None], secrets: Env
    ) -> tuple[dict[str, Json], dict[str, Json]]:
        whole, hidden = step_environment(self._environ, env, secrets)
        return {**whole}, {**hidden}
