"""Packaging. Everything declarative is in setup.cfg; this adds YAML files from outside the package."""

from __future__ import annotations

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

COPIES = {"config": "configs", "results/reference": "references"}


class BuildWithConfigs(build_py):
    """Copies :data:`COPIES` into ``plugin_hasac/`` in what is built."""

    def run(self) -> None:
        """Build, then copy (an editable install reads the checkout's folders)."""
        super().run()
        if not self.editable_mode:
            for source, name in COPIES.items():
                target = Path(self.build_lib) / "plugin_hasac" / name
                shutil.copytree(Path(__file__).parent / source, target, dirs_exist_ok=True)


setup(cmdclass={"build_py": BuildWithConfigs})
