"""Run one command and print what it used.  Started by measure.py as a process of its own, with few imports:

    python -I -S spawn.py COMMAND...   ->   {"seconds", "cpu_s", "peak_kb", "status"}

A forked process counts its parent's memory into its own peak, so the parent must be small; the bench is not.
"""

import os
import resource
import sys
import time


def main(command: list[str]) -> None:
    began = time.perf_counter()
    pid = os.fork()
    if pid == 0:
        try:
            sink = os.open(os.devnull, os.O_RDWR)
            for fd in (0, 1, 2):
                os.dup2(sink, fd)
            os.execvp(command[0], command)
        finally:
            os._exit(127)
    _, status = os.waitpid(pid, 0)
    seconds = time.perf_counter() - began
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s = used.ru_utime + used.ru_stime
    code = os.waitstatus_to_exitcode(status)
    peak_kb = used.ru_maxrss // (1024 if sys.platform == "darwin" else 1)
    print(f'{{"seconds": {seconds}, "cpu_s": {cpu_s}, "peak_kb": {peak_kb}, "status": {code}}}')


main(sys.argv[1:])
