"""What a worker process does from its start: takes its place, imports its runner, and serves.

Owns the table of runners and what holds for every worker: it never outlives llmc.  What requests mean is
the runner's business; a runner is a module with `serve(channel, config)`.

Whoever starts a worker sends {"op": "start", "kind", "runner", "config", "parent", "watch"} first: the
kind of lane, the name of the runner's module, its settings, the process id of llmc, and whether a signal
may tell of its death.  Before that it may be sent {"op": "prepare", "module", "config"}: what it is likely
to need, which the module's `prepare(config)` makes ready.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Mapping
from typing import Final

from llmc_build.execute import osdep
from llmc_build.execute.channel import Channel, ChannelClosed

RUNNERS: Final[Mapping[str, str]] = {  # kind of lane -> module
    "shell": "llmc_build.execute.shellrun",
    "model": "llmc_build.llm.serve",
    "http": "llmc_build.llm.http",
}
# Executed by `python -I -c`: the worker finds the package where its parent found it, and whatever else it may
# need in the same places in the same order, so that both are of one version.
BOOTSTRAP: Final = (
    "import sys; told = sys.argv[2:]; own = [p for p in sys.path if p not in told]\n"
    "sys.path = told + own if len(told) > 1 else own + told\n"
    "try: from llmc_build.execute.worker import main\n"
    'except (OSError, ImportError, MemoryError) as e: sys.exit(f"a part of llmc can\'t be loaded: {e}")\n'
    "main(int(sys.argv[1]))"
)
_PATIENCE_S = 2.0  # for a runner to end by itself once the connection is closed


def main(fd: int) -> None:
    """Serves one lane over the socket that the parent passed on, until it is closed."""
    os.set_inheritable(fd, False)  # what a step inherited would keep the connection open
    channel = Channel.from_fd(fd)
    try:
        start = channel.recv()
        if start is not None and start["op"] == "prepare":
            with contextlib.suppress(Exception):  # it is told when it is needed
                __import__(start["module"])
                sys.modules[start["module"]].prepare(start["config"])
            start = channel.recv()
    except ChannelClosed:
        return
    assert start is not None
    if start["watch"]:
        osdep.signal_on_parent_death(signal.SIGTERM)
        if os.getppid() != start["parent"]:  # it died before the signal was asked for
            return
    if start["kind"] != "shell":
        # A shell worker watches its connection itself and has processes to end; others may be deep in
        # native code when llmc dies.
        import threading

        threading.Thread(target=_end_with, args=(fd,), daemon=True).start()
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    __import__(start["runner"])
    sys.modules[start["runner"]].serve(channel, start["config"])
    if start["kind"] == "model":
        os._exit(0)  # the kernel frees a model in less time than llama.cpp and Python take


def _end_with(fd: int) -> None:
    """Ends this process soon after the other end of its connection is closed."""
    import select
    import time

    poll = select.poll()
    poll.register(fd, select.POLLHUP)
    try:
        while not any(event & (select.POLLHUP | select.POLLERR) for _, event in poll.poll()):
            time.sleep(0.1)
    except OSError:
        pass
    time.sleep(_PATIENCE_S)
    os._exit(1)
