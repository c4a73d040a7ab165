"""The compiled passes against automatic differentiation, and what happens where they cannot be compiled."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from plugin_hasac import native
from plugin_hasac.modules.adam import Adam
from plugin_hasac.modules.stacked import StackedMLP
from plugin_hasac.native import build
from plugin_hasac.native.build import BuildError
from plugin_hasac.native.library import Library
from plugin_hasac.native.passes import NativeJointValues, NativePass

COMPILED = pytest.mark.skipif(native.problem() is not None, reason=f"no compiled passes: {native.problem()}")
CPU = torch.device("cpu")


@pytest.fixture(params=["float64", "float32", "bfloat16"])
def tolerance(request: pytest.FixtureRequest) -> Iterator[float]:
    """Of a relative error in this precision; where relu is just at 0, rounding may switch it."""
    if request.param == "float64":
        torch.set_default_dtype(torch.float64)
    elif request.param == "bfloat16":
        if not (native.load() and native.load().bfloat16):
            pytest.skip("this processor has no bfloat16 matrix units")
        torch.set_float32_matmul_precision("medium")
    yield {"float64": 1e-12, "float32": 1e-3, "bfloat16": 5e-2}[request.param]
    torch.set_default_dtype(torch.float32)
    torch.set_float32_matmul_precision("highest")


def networks(count: int, sizes: tuple[int, ...], activation: str, *, normalize: bool) -> StackedMLP:
    net = StackedMLP(
        count,
        sizes,
        activation=activation,
        output_gain=1.0,
        normalize_input=normalize,
        device=CPU,
        generator=torch.Generator().manual_seed(0),
    )
    net.flat.add_(0.1 * torch.randn(net.flat.shape, generator=torch.Generator().manual_seed(1)))
    return net


def relative_error(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return ((ours - theirs).norm() / theirs.norm()).item()


@COMPILED
@pytest.mark.parametrize("activation", ["relu", "tanh", "silu"])
@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize(
    ("rows", "sizes"),
    [(1, (3, 5)), (7, (1, 16, 2)), (100, (33, 40, 5)), (333, (18, 64, 70, 18)), (1000, (130, 256, 256, 1))],
)
def test_gradients_are_those_of_automatic_differentiation(
    tolerance: float, rows: int, sizes: tuple[int, ...], normalize: bool, activation: str
) -> None:
    generator = torch.Generator().manual_seed(2)
    net = networks(2, sizes, activation, normalize=normalize)
    x = torch.randn(2, rows, sizes[0] + 3, generator=generator)[..., : sizes[0]]  # rows do not follow without gaps
    slope = torch.randn(2, rows, sizes[-1], generator=generator)
    passes = NativePass(native.load(), net, 2, rows)
    passes.observe(x)
    weights = net.flat.clone().requires_grad_()
    expected = torch.stack([net.forward(own, seen) for own, seen in zip(weights, x)])
    passes.forward()
    passes.backward(slope)
    gradient = torch.autograd.grad((expected * slope).sum(), weights)[0]
    assert relative_error(passes.output, expected.detach()) < tolerance
    assert relative_error(net.grads, gradient) < tolerance
    kept = passes.output.clone()
    assert torch.equal(passes.forward(1, keep=False), kept[1])


@COMPILED
def test_sizes_of_three_hidden_layers_and_many_rows_are_the_same_for_every_number_of_threads(tolerance: float) -> None:
    net = networks(1, (40, 48, 80, 33, 3), "relu", normalize=True)
    x, slope = torch.randn(1, 517, 40), torch.randn(1, 517, 3)
    passes, threads, found = NativePass(native.load(), net, 1, 517), torch.get_num_threads(), []
    for count in (1, 2, 5):
        torch.set_num_threads(count)
        passes.observe(x)
        passes.forward()
        passes.backward(slope)
        found.append((passes.output.clone(), net.grads.clone()))
    torch.set_num_threads(threads)
    for output, grads in found[1:]:
        assert torch.equal(output, found[0][0])  # rows are worked on one by one
        assert relative_error(grads, found[0][1]) < tolerance  # sums over rows in another order


@COMPILED
@pytest.mark.parametrize("hidden_sizes", [(64,), (64, 48), (32, 64, 40)])
@pytest.mark.parametrize("rows", [1, 50, 500])
def test_the_smaller_twin_and_its_slope(tolerance: float, hidden_sizes: tuple[int, ...], rows: int) -> None:
    generator = torch.Generator().manual_seed(3)
    net = networks(2, (9, *hidden_sizes, 1), "tanh", normalize=False)
    values, weight = NativeJointValues(native.load(), net, rows), net.stacks[0][:, 4:6]
    x = torch.randn(rows, 9, generator=generator)
    values.first.copy_(torch.stack([x @ w + b for w, b in zip(*net.stacks[:2])]))
    values.restart()
    for everywhere in (True, False, True):
        change = torch.randn(rows, 2, generator=generator)
        if not everywhere:
            change[torch.rand(rows, generator=generator) < 0.7] = 0.0
        values.move(change, weight, everywhere=everywhere)
        x[:, 4:6] += change
        seen = x.clone().requires_grad_()
        both = torch.stack([net.forward(own, seen).squeeze(-1) for own in net.flat])
        expected = torch.autograd.grad(both.amin(0).sum(), seen)[0][:, 4:6]
        slope = values.slope_in(weight)
        sure = (both[0] - both[1]).abs() > 0.1  # rounding may choose the other one
        assert relative_error(values.q, both.amin(0)) < tolerance
        assert sure.any() or rows == 1
        assert relative_error(slope[sure], expected[sure]) < tolerance or not sure.any()


@COMPILED
@pytest.mark.parametrize("most", [None, 0.1, 1e6])
def test_adam_is_pytorchs(most: float | None) -> None:
    generator = torch.Generator().manual_seed(0)
    ours, theirs = (torch.randn(10_001, generator=torch.Generator().manual_seed(1)) for _ in range(2))
    grads = torch.empty(10_001)
    optimizer, theirs = Adam(ours, grads, 3e-3), theirs.requires_grad_()
    reference = torch.optim.Adam([theirs], 3e-3)
    for _ in range(5):
        theirs.grad = torch.randn(10_001, generator=generator)
        grads.copy_(theirs.grad)
        norm = torch.nn.utils.clip_grad_norm_([theirs], most if most is not None else float("inf"))
        assert optimizer.clipped_step(native.load().adam, most) == pytest.approx(norm.item(), rel=1e-5)
        reference.step()
    torch.testing.assert_close(ours, theirs.detach(), rtol=1e-5, atol=1e-6)


@COMPILED
def test_a_step_with_a_gradient_that_is_not_a_number_shows() -> None:
    net = networks(1, (4, 8, 1), "relu", normalize=False)
    passes = NativePass(native.load(), net, 1, 3)
    passes.observe(torch.tensor([[[1.0, 2.0, float("nan"), 4.0]] * 3]))
    assert passes.forward().isnan().all()


@COMPILED
def test_the_library_is_compiled_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    build.library()
    (kept,) = (tmp_path / "plugin_hasac").iterdir()
    written = kept.stat().st_mtime_ns
    build.library()
    assert [path.stat().st_mtime_ns for path in (tmp_path / "plugin_hasac").iterdir()] == [written]


@COMPILED
def test_a_library_that_was_left_half_written_is_compiled_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    whole, half = tmp_path / "whole", tmp_path / "half"
    monkeypatch.setenv("XDG_CACHE_HOME", str(whole))
    build.library()
    (kept,) = (whole / "plugin_hasac").iterdir()
    broken = half / "plugin_hasac" / kept.name
    broken.parent.mkdir(parents=True)
    broken.write_bytes(kept.read_bytes()[:100])
    monkeypatch.setenv("XDG_CACHE_HOME", str(half))
    build.library()
    assert broken.stat().st_size == kept.stat().st_size


def test_without_a_compiler_the_reason_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(BuildError, match=r"^no C\+\+ compiler: none of g\+\+, c\+\+ is on the path$"):
        build.library()


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        (
            "echo 'kernels.cpp:1: error: unknown option' >&2; exit 1",
            "broken failed: kernels.cpp:1: error: unknown option",
        ),
        ("case $1 in --version) echo 1;; *) touch ${@: -1};; esac", "file too short"),
        ("echo clang version 14", "broken is clang, whose threads are not PyTorch's: set CXX to a g++"),
    ],
)
def test_a_compiler_that_fails_is_no_reason_to_stop(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, script: str, reason: str
) -> None:
    broken = tmp_path / "broken"
    broken.write_text(f"#!/bin/bash\n{script}\n", encoding="utf-8")
    broken.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("CXX", "broken")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    native._load.cache_clear()
    try:
        assert native.load() is None
        assert reason in str(native.problem())
        assert "\n" not in str(native.problem())
    finally:
        native._load.cache_clear()


@COMPILED
def test_a_folder_that_cannot_be_written_is_no_reason_to_stop(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    library = Library(torch.float32)
    out = torch.zeros(2, 2)
    library.product(torch.eye(2), torch.full((2, 2), 3.0), out)
    assert torch.equal(out, torch.full((2, 2), 3.0))


@COMPILED
def test_layer_norm_is_pytorchs() -> None:
    net = networks(1, (50, 20), "relu", normalize=True)
    x = 100 + 3 * torch.randn(1, 30, 50)
    passes = NativePass(native.load(), net, 1, 30)
    passes.observe(x)
    scale, shift, weight, bias = (stack[0] for stack in net.stacks)
    expected = (F.layer_norm(x[0], (50,)) * scale + shift) @ weight + bias
    assert relative_error(passes.forward()[0], expected) < 1e-5
