"""A real llama.cpp server with slots, and clients that keep them busy: requests from a file, answers out.

Run with the Python that has xllamacpp.  The clock begins when the server is ready, and it speaks HTTP on
the loopback interface only.
"""

from __future__ import annotations

import http.client
import json
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit


def main() -> None:
    import xllamacpp

    plan = json.loads(Path(sys.argv[1]).read_text())
    slots = plan["slots"]
    params = xllamacpp.CommonParams()
    params.model.path = plan["model"]
    params.n_parallel = slots
    params.n_ctx = plan["context"] * slots
    threads = plan["threads"] or len(os.sched_getaffinity(0))
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    params.n_threads_http = slots
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    params.verbosity = -1
    server = xllamacpp.Server(params)
    address = urlsplit(server.listening_address)

    def ask(request: dict[str, object]) -> list[object]:
        body: dict[str, object] = {
            "messages": request["messages"],
            "max_tokens": request["max_tokens"],
            "temperature": 0.0,
        }
        if request.get("schema"):
            schema = {"name": "answer", "schema": request["schema"]}
            body["response_format"] = {"type": "json_schema", "json_schema": schema}
        connection = http.client.HTTPConnection(address.hostname or "127.0.0.1", address.port, timeout=3600)
        connection.request(
            "POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json"}
        )
        reply = json.loads(connection.getresponse().read())
        connection.close()
        return [reply["choices"][0]["message"]["content"], reply["usage"]["completion_tokens"]]

    ask({"messages": [{"role": "user", "content": "warm up"}], "max_tokens": 1})
    begun = time.perf_counter()
    with ThreadPoolExecutor(slots) as clients:
        answers = list(clients.map(ask, plan["requests"]))
    print(json.dumps({"seconds": time.perf_counter() - begun, "answers": answers}), flush=True)
    os._exit(0)  # the server's threads need not be waited for


if __name__ == "__main__":
    main()
