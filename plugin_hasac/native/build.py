"""Compiles ``kernels.cpp`` for this processor, once: the library is kept in the user's cache folder."""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path

SOURCE = Path(__file__).with_name("kernels.cpp")
COMPILERS = ("g++", "c++")
# As a compiler is allowed to without losing NaN and infinity: errno and floating-point traps are not used.
FLAGS = ("-std=c++20", "-O3", "-march=native", "-fPIC", "-fopenmp", "-fno-math-errno", "-fno-trapping-math")
THREAD_LIBRARIES = ("libgomp", "libiomp5", "libomp")
TIMEOUT = 120  # seconds


class BuildError(Exception):
    """Why there is no library, in one line."""


def library(*defines: str) -> ctypes.CDLL:
    """Load the library, after compiling it if it is not in the cache.

    Args:
        defines: macros of this variant.

    Raises:
        BuildError: if there is no compiler, or it fails.
    """
    compiler = find_compiler()
    version = _run([compiler, "--version"])
    if "clang" in version:
        raise BuildError(f"{Path(compiler).name} is clang, whose threads are not PyTorch's: set CXX to a g++")
    threads = thread_library()
    options = [*FLAGS, *(f"-D{name}" for name in defines)]
    parts = [SOURCE.read_text(encoding="utf-8"), version, *options, threads, _processor()]
    name = f"kernels-{hashlib.sha256(chr(0).join(parts).encode()).hexdigest()[:20]}.so"
    try:
        with tempfile.TemporaryDirectory(prefix="plugin_hasac-") as scratch:
            path = cache_folder(Path(scratch)) / name
            with suppress(OSError):  # none is there yet, it was not left whole, or it is for another system
                return ctypes.CDLL(str(path))
            _compile(compiler, options, threads, path)
            return ctypes.CDLL(str(path))
    except OSError as error:
        raise BuildError(" ".join(str(error).split())[:200]) from error


def find_compiler() -> str:
    """GCC's C++ compiler: ``CXX`` or the first of :data:`COMPILERS` on the path."""
    wanted = (os.environ["CXX"],) if os.environ.get("CXX") else COMPILERS
    for candidate in wanted:
        path = shutil.which(candidate)
        if path:
            return path
    raise BuildError(f"no C++ compiler: none of {', '.join(wanted)} is on the path")


def cache_folder(instead: Path) -> Path:
    """Where libraries are kept, made if need be; ``instead`` if it cannot be written to."""
    try:
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "plugin_hasac"
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError):  # RuntimeError: nobody's home
        return instead
    return folder if os.access(folder, os.W_OK) else instead


def thread_library() -> str:
    """The OpenMP library that PyTorch has loaded: with another one, two sets of threads would fight for the cores."""
    try:
        lines = Path("/proc/self/maps").read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    paths = [line.split(maxsplit=5)[-1] for line in lines if "/" in line]
    found = [path for path in paths if Path(path).name.startswith(THREAD_LIBRARIES)]
    return found[0] if found else ""


def _compile(compiler: str, options: list[str], threads: str, path: Path) -> None:
    with tempfile.TemporaryDirectory(dir=path.parent, prefix="building-") as folder:
        compiled, linked = Path(folder) / "kernels.o", Path(folder) / path.name
        _run([compiler, *options, "-c", str(SOURCE), "-o", str(compiled)])
        _run([compiler, "-shared", str(compiled), threads or "-fopenmp", "-lm", "-o", str(linked)])
        linked.replace(path)  # at once: another process may be compiling the same


def _run(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BuildError(" ".join(str(error).split())[:200]) from error
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if "error" in line] or done.stderr.splitlines() or ["?"]
        raise BuildError(f"{Path(command[0]).name} failed: {lines[0][:160]}")
    return done.stdout


def _processor() -> str:
    """What ``-march=native`` depends on: home folders are shared by different machines."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    kept = ("model", "flags", "Features", "CPU part", "cpu family")
    return platform.machine() + "".join(sorted({line for line in lines if line.startswith(kept)}))
