"""Drifts and neighbourhoods by name, or by the path of a user's own class; each is checked before it is used."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor

from plugin_hasac.errors import UserError, did_you_mean
from plugin_hasac.mehaml.drifts import ClippedDrift, Drift, KLDrift, SquaredLogRatioDrift
from plugin_hasac.mehaml.neighbourhoods import KLBall, Neighbourhood

DRIFTS: dict[str, type[Drift]] = {
    "kl": KLDrift,
    "squared_log_ratio": SquaredLogRatioDrift,
    "clipped": ClippedDrift,
}
NEIGHBOURHOODS: dict[str, type[Neighbourhood]] = {"kl_ball": KLBall}
NO_DRIFT, EVERYTHING = "none", "everything"

Part = TypeVar("Part", Drift, Neighbourhood)
# Of the checker: absolute, for drifts of random policies, which are of order 1.
TOLERANCE = 1e-8
SMALL_STEP = 1e-4


def make_drift(name: str, arguments: Mapping[str, Any] | None) -> Drift | None:
    """The drift of a config, or ``None`` for HASAC's.

    Args:
        name: key of :data:`DRIFTS`, ``none``, or ``package.module.Class`` of one's own.
        arguments: of the class; those that are ``None`` are left to its defaults.

    Raises:
        UserError: if there is no such class, it does not take the arguments, or it is no drift functional.
    """
    if name == NO_DRIFT:
        return None
    drift = _make("drift", name, arguments, DRIFTS, NO_DRIFT, Drift)
    check_drift(drift, name)
    return drift


def make_neighbourhood(name: str, arguments: Mapping[str, Any] | None) -> Neighbourhood | None:
    """The neighbourhood of a config, or ``None`` for all policies. Arguments and errors as :func:`make_drift`."""
    if name == EVERYTHING:
        return None
    return _make("neighbourhood", name, arguments, NEIGHBOURHOODS, EVERYTHING, Neighbourhood)


def check_drift(drift: Drift, name: str, seed: int = 0) -> None:
    """Test on random categorical policies whether a class is a drift functional.

    Raises:
        UserError: if it is negative somewhere, or not 0 with zero gradient at the current policy.
    """
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    for n_choices in (2, 3, 6):
        old = torch.log_softmax(1.5 * random(200, n_choices), -1)
        advantage = random(200, n_choices)
        advantage = advantage - (old.exp() * advantage).sum(-1, keepdim=True)
        logits = old.clone().requires_grad_()
        at_old = drift.exact(torch.log_softmax(logits, -1), old, advantage)
        if at_old.shape != old.shape[:-1]:
            _invalid(name, f"its integrand turns {tuple(old.shape)} into another shape")
        if not at_old.detach().abs().max() <= TOLERANCE:
            _invalid(name, f"it is {at_old.detach().abs().max():.3g} instead of 0 at the current policy")
        (slope,) = torch.autograd.grad(at_old.sum(), logits, allow_unused=True)
        if slope is not None and not slope.abs().max() <= TOLERANCE:
            _invalid(name, f"its gradient at the current policy is {slope.abs().max():.3g} instead of 0")
        steps = [size * random(200, n_choices) for size in (SMALL_STEP, 0.1, 1.0, 3.0)]
        news = [torch.log_softmax(old + step, -1) for step in steps]
        lowest = torch.stack([drift.exact(new, old, advantage) for new in news]).min()
        if not lowest >= -TOLERANCE:
            _invalid(name, f"it is {lowest:.3g} for some step, and must never be negative")


def _invalid(name: str, why: str) -> None:
    raise UserError(f"drift: '{name}' is no drift functional: {why}.")


def _make(
    key: str, name: str, arguments: Mapping[str, Any] | None, known: dict[str, type[Part]], nothing: str, base: type
) -> Part:
    if name in known:
        chosen = known[name]
    elif "." in name:
        chosen = _imported(key, name, base)
    else:
        choices = [nothing, *known]
        raise UserError(
            f"{key}: unknown name '{name}'.{did_you_mean(name, choices)} Expected one of {', '.join(choices)}, "
            "or the path of your own class such as my_module.MyClass."
        )
    given = {key: value for key, value in (arguments or {}).items() if value is not None}
    try:
        return chosen(**given)
    except (TypeError, ValueError) as error:
        takes = inspect.signature(chosen)
        raise UserError(f"{key}_args: '{name}' takes {takes}, but was given {given} ({error}).") from error


def _imported(key: str, name: str, base: type) -> Any:
    module_name, _, class_name = name.rpartition(".")
    try:
        found = getattr(importlib.import_module(module_name), class_name)
    except (ImportError, AttributeError) as error:
        raise UserError(
            f"{key}: cannot import '{name}' ({error}); expected a module that Python finds and a class in it."
        ) from error
    if not (isinstance(found, type) and issubclass(found, base)):
        raise UserError(f"{key}: '{name}' is not a subclass of {base.__module__}.{base.__name__}.")
    return found
