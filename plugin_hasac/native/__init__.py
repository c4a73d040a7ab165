"""The passes of the fast update on a CPU, compiled for its processor.

:file:`kernels.cpp` is compiled at first use (:mod:`.build`) and takes the place of :class:`MLPPass`,
:class:`JointValues` and Adam's step (:mod:`.passes`). Where it cannot be compiled, PyTorch does the same, slower.
"""

from __future__ import annotations

from functools import cache

import torch

from plugin_hasac.native.build import BuildError
from plugin_hasac.native.library import Library


@cache
def _load(dtype: torch.dtype) -> Library | BuildError:
    try:
        return Library(dtype)
    except BuildError as problem:
        return problem


def load() -> Library | None:
    """The library for the default type of real numbers, or ``None`` if there is none here; see :func:`problem`."""
    found = _load(torch.get_default_dtype())
    return found if isinstance(found, Library) else None


def problem() -> str | None:
    """Why there is none, in one line."""
    found = _load(torch.get_default_dtype())
    return str(found) if isinstance(found, BuildError) else None
