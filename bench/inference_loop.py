"""llama-cpp-python called in a loop, as a whole process: requests from a file, answers to standard output.

Run with the Python that has llama-cpp-python.  Only its public high-level interface is used, with its
defaults.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any


def main() -> None:
    from llama_cpp import Llama

    plan = json.loads(Path(sys.argv[1]).read_text())
    threads = plan["threads"]
    llama = Llama(
        model_path=plan["model"],
        n_ctx=plan["context"],
        n_threads=threads,
        n_threads_batch=threads,
        verbose=False,
    )
    begun = time.perf_counter()
    answers = []
    for request in plan["requests"]:
        form: Any = {"type": "json_object", "schema": request["schema"]} if request.get("schema") else None
        reply: Any = llama.create_chat_completion(
            messages=request["messages"],
            max_tokens=request["max_tokens"],
            temperature=0.0,
            repeat_penalty=1.0,
            response_format=form,
        )
        answers.append([reply["choices"][0]["message"]["content"], reply["usage"]["completion_tokens"]])
    print(json.dumps({"seconds": time.perf_counter() - begun, "answers": answers}))


if __name__ == "__main__":
    main()
