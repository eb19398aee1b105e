"""Processes that are forked, as a pool of Python's is on Linux."""

import os
import sys


def on_one_thread() -> None:
    """In a process that was forked from one which has used threads: those are not there, and who waits for them waits for ever.
    One thread needs no other.
    """
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(1)
    if "sklearn" in sys.modules:  # whose threads are another library's
        from threadpoolctl import threadpool_limits

        threadpool_limits(1)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=on_one_thread)
