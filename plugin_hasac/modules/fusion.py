"""Fusion of chains of small operations into single GPU kernels, where torch.compile is able to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

problems: set[str] = set()  # why functions run unfused, in one line each


def fused(function: Callable[..., Any], device: torch.device) -> Callable[..., Any]:
    """``function``, compiled for a GPU; as it is for a CPU, or where compiling fails (see :data:`problems`).

    Args:
        function: of tensors alone; it must not change them.
        device: that the tensors are on.
    """
    if device.type != "cuda":
        return function
    compiled: Callable[..., Any] = torch.compile(function, fullgraph=True, dynamic=False)
    usable = True

    def call(*arguments: Any) -> Any:
        nonlocal usable
        if usable and not problems:
            try:
                # One limit would be shared by all functions made here, for every space, shape and option.
                with torch._dynamo.config.patch(recompile_limit=1000, accumulated_recompile_limit=1000):
                    return compiled(*arguments)
            except Exception as error:  # no Triton, no C compiler, an unknown GPU, …: slower, but no reason to stop
                usable = False
                problems.add(" ".join(str(error).split())[:200])
        return function(*arguments)

    return call
