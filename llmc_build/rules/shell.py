"""The rule `shell`: a script whose standard output is the value.  Pure.

Owns how a script becomes an action and what of it enters the key.  How values get into a script is
`shellcode`; how the script runs is `execute.shellrun`.
"""

from __future__ import annotations

from llmc_build import placeholder
from llmc_build.model import Action, Json, Step
from llmc_build.rules import Bound, Scope, action_of
from llmc_build.shellcode.rewrite import rewrite


class Shell:
    name = "shell"
    version = 1
    lane = "shell"

    def lower(self, step: Step, scope: Scope) -> Action:
        source = step.command or ""
        params: dict[str, Json] = {"shell": step.shell}
        words: tuple[str, ...] = ()
        with scope.reading("command", source):
            parsed = placeholder.parse(source)
            for ref in parsed.refs:  # unknown names are found even where the script itself is refused
                scope.slot(ref)
            script = rewrite(parsed, shell="bash" if step.shell == "bash" else "sh", slot=scope.slot)
            params["script"] = script.text
            params["variables"] = [
                {"variable": v.name, "slot": v.slot, "filters": list(v.filters), "path": v.path}
                for v in script.variables
            ]
            params["dash"] = [[variable, command] for variable, command in script.dash_checks]
            words = script.words
        return action_of(self, step, scope, params, words)

    def bind(self, action: Action, bound: Bound) -> dict[str, Json]:
        used = {v["slot"] for v in _variables(action)}
        return {
            "shell": action.params["shell"],
            "platform": bound.platform,
            "script": action.params["script"],
            "values": {
                slot: [digest.hash, digest.size] for slot, digest in bound.values.items() if slot in used
            },
        }

    def request(self, action: Action, bound: Bound) -> dict[str, Json]:
        names = {use.slot: use.name for use in action.values}
        variables: list[Json] = [{**v, "name": names[str(v["slot"])]} for v in _variables(action)]
        return {
            "script": action.params["script"],
            "shell": action.params["shell"],
            "variables": variables,
            "dash": action.params["dash"],
        }


def _variables(action: Action) -> list[dict[str, Json]]:
    found = action.params["variables"]
    assert isinstance(found, list)
    return [v for v in found if isinstance(v, dict)]
