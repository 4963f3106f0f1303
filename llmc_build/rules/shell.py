"""The rule `shell`: a script whose standard output is the value.  Pure.

Owns how a script becomes an action and what of it enters the key.  How values get into a script is
`shellcode`; how the script runs is `execute.shellrun`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from llmc_build import placeholder
from llmc_build.model import Action, Json, Step
from llmc_build.placeholder import TemplateError
from llmc_build.rules import Bound, Scope, action_of
from llmc_build.shellcode.rewrite import Script, rewrite, variables


class _Params(Mapping[str, Json]):
    """The parameters of a shell action.  A script has few words of its own beside its text."""

    __slots__ = ("_dashes", "_nonce_at", "_shell", "_text", "_uses")

    def __init__(self, shell: str, script: Script) -> None:
        self._shell, self._text, self._nonce_at = shell, script.text, script.nonce_at
        self._uses, self._dashes = script.uses, script.dash_checks

    def __getitem__(self, name: str) -> Json:
        match name:
            case "shell":
                return self._shell
            case "script":
                return self._text
            case "variables":
                return [
                    {"variable": v.name, "slot": v.slot, "filters": list(v.filters), "path": v.path}
                    for v in variables(self._text, self._nonce_at, self._uses)
                ]
            case "dash":
                return [[variable, command] for variable, command in self._dashes]
        raise KeyError(name)

    @property
    def slots(self) -> Sequence[str]:
        """The slots whose values the script reads."""
        return [use.slot for use in self._uses]

    def __iter__(self) -> Iterator[str]:
        return iter(("shell", "script", "variables", "dash"))

    def __len__(self) -> int:
        return 4

    def __repr__(self) -> str:
        return repr(dict(self))


class Shell:
    name = "shell"
    version = 1
    lane = "shell"

    def lower(self, step: Step, scope: Scope) -> Action:
        source = step.command or ""
        script = Script(text="")
        with scope.reading("command", source):
            parsed = placeholder.parse(source)
            try:
                script = rewrite(parsed, shell="bash" if step.shell == "bash" else "sh", slot=scope.slot)
            except TemplateError:
                for ref in parsed.refs:  # unknown names are found even where the script itself is refused
                    scope.slot(ref)
                raise
        return action_of(self, step, scope, _Params(step.shell, script), script.words)

    def bind(self, action: Action, bound: Bound) -> dict[str, Json]:
        assert isinstance(action.params, _Params)
        used = action.params.slots
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
        found = action.params["variables"]
        assert isinstance(found, list)
        variables: list[Json] = [{**v, "name": names[str(v["slot"])]} for v in found if isinstance(v, dict)]
        return {
            "script": action.params["script"],
            "shell": action.params["shell"],
            "variables": variables,
            "dash": action.params["dash"],
        }
