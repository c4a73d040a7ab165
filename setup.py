"""Packaging. Everything declarative is in setup.cfg; this adds the YAML files of config/ to the package."""

from __future__ import annotations

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithConfigs(build_py):
    """Copies ``config/`` to ``plugin_hasac/configs/`` in what is built."""

    def run(self) -> None:
        """Build, then copy (an editable install reads the checkout's folder)."""
        super().run()
        if not self.editable_mode:
            shutil.copytree(
                Path(__file__).parent / "config", Path(self.build_lib) / "plugin_hasac" / "configs", dirs_exist_ok=True
            )


setup(cmdclass={"build_py": BuildWithConfigs})
