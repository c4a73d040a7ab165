"""What hosts need from Python or from libraries that newer versions dropped, restored in memory only."""

from __future__ import annotations

import importlib.util
import sys
import types


def restore_imp() -> None:
    """Python 3.12 removed ``imp``; PyMARLzoo+'s MPE loads its scenarios with ``imp.load_source``."""
    if sys.version_info < (3, 12) or "imp" in sys.modules:
        return

    def load_source(name: str, path: str) -> types.ModuleType:
        spec = importlib.util.spec_from_file_location(name, path)
        if spec is None or spec.loader is None:
            raise ImportError(path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    imp = types.ModuleType("imp")
    imp.load_source = load_source
    sys.modules["imp"] = imp
