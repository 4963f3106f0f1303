"""When Python looks for garbage: objects that nothing but each other refers to.

What a build loads stays until its end and holds no such garbage, but Python would go through all of it again
and again while it grows, which takes a third of the time of a large build.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def loading() -> Iterator[None]:
    """Nothing is looked for here, nor later among what was made here, until the end of `loaded`."""
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


@contextmanager
def loaded() -> Iterator[None]:
    """The time in which what was loaded is needed."""
    try:
        yield
    finally:
        gc.unfreeze()
