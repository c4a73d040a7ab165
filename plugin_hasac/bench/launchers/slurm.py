"""Runs as an array job of Slurm, one array task each."""

from __future__ import annotations

import math
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from plugin_hasac.bench.launchers import python_path
from plugin_hasac.bench.suite import Run, Suite
from plugin_hasac.errors import RunFailedError, UserError


def script(suite: Suite, runs: Sequence[Run]) -> str:
    """The batch script of an array job.

    Args:
        suite: which the array tasks read again.
        runs: to make, by identity: a suite that is changed meanwhile makes no other runs than these.
    """
    suite.folder.mkdir(parents=True, exist_ok=True)  # Slurm writes its logs into no folder that it would have to make
    resources = suite.resources
    at_once = f"%{resources.workers}" if resources.workers else ""
    options = {
        "job-name": f"hasac-{suite.path.stem}",
        "array": f"0-{len(runs) - 1}{at_once}",
        "cpus-per-task": resources.threads,
        "output": suite.folder / "slurm-%A_%a.log",
    }
    if resources.gpus:
        options["gpus-per-task"] = math.ceil(resources.gpus)
    for key, value in resources.sbatch.items():
        options[str(key).lstrip("-").replace("_", "-")] = value
    command = [sys.executable, "-m", "plugin_hasac", "bench", str(suite.path), "--folder", str(suite.folder), "--only"]
    lines = [
        "#!/bin/bash",
        *(f"#SBATCH --{key}={value}" for key, value in options.items()),
        "set -eu",
        f"runs=({' '.join(run.identity for run in runs)})",
        f"cd {shlex.quote(str(Path.cwd()))}",
        f"export PYTHONPATH={shlex.quote(python_path())}",
        f'exec {shlex.join(command)} "${{runs[$SLURM_ARRAY_TASK_ID]}}"',
    ]
    return "\n".join(lines) + "\n"


def submit(suite: Suite, runs: Sequence[Run]) -> str:
    """Hand the array job to Slurm.

    Returns:
        The number of the job.

    Raises:
        UserError: if this machine has no ``sbatch``.
        RunFailedError: if Slurm refuses the job.
    """
    sbatch = shutil.which("sbatch")
    if sbatch is None:
        raise UserError(
            "--slurm submit: there is no 'sbatch' on PATH; call it where Slurm is, or print the script with --slurm."
        )
    done = subprocess.run([sbatch], input=script(suite, runs), capture_output=True, text=True, check=False)
    if done.returncode:
        raise RunFailedError(f"sbatch refused the job: {' '.join(done.stderr.split())}")
    number = re.search(r"\d+", done.stdout)
    return number.group() if number else done.stdout.strip()
