"""The environment of a step: an allow-list, what the step declares, and its secrets.  Pure.

A step must not depend on what happens to be set: what it needs it declares, and that enters its key.
"""

from __future__ import annotations

from collections.abc import Mapping

from llmc_build.model import Env

# What programs need in order to start and find themselves; none of it should change a result.
ALLOWED = (
    "HOME",
    "LANG",
    "LC_ALL",
    "LC_CTYPE",
    "LOGNAME",
    "NIX_SSL_CERT_FILE",
    "PATH",
    "SSL_CERT_FILE",
    "TZ",
    "USER",
)


class MissingSecret(Exception):
    """A declared variable can't be had.  One line."""


def step_environment(
    environ: Mapping[str, str], env: Mapping[str, str | None], secrets: Env
) -> tuple[dict[str, str], dict[str, str]]:
    """(the whole environment, the secrets alone).  Raises MissingSecret for a secret that is not set."""
    found = {name: environ[name] for name in ALLOWED if name in environ}
    found.setdefault("PATH", "/usr/local/bin:/usr/bin:/bin")
    found.update({name: value for name, value in env.items() if value is not None})
    hidden: dict[str, str] = {}
    for name, value in secrets:
        secret = environ.get(name) if value is None else value
        if secret is None:
            raise MissingSecret(f"secret {name} is not set in the environment")
        hidden[name] = secret
    found.update(hidden)
    return found, hidden
