"""Adam on flat weights, through PyTorch's fused kernel."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

BETAS, EPSILON = (0.9, 0.999), 1e-8
# The kernel gives one block of a GPU to each 64k numbers of a tensor; smaller tensors use more of the GPU.
GPU_CHUNK = 4096


def piece(weights: Tensor) -> int:
    """How many of the weights go into one tensor."""
    return GPU_CHUNK if weights.device.type == "cuda" else weights.numel()


class Adam:
    """Adam (Kingma and Ba, 2015, Algorithm 1), in place.

    ``torch.optim.Adam`` calls the same kernel. Here the moments are one vector, however the device likes it cut, so a
    checkpoint from a GPU goes on on a CPU; what a checkpoint holds never replaces the configured learning rate; and the
    first step does not import PyTorch's compiler, which takes seconds.

    Args:
        weights: one vector ``(n,)``, changed in place.
        grads: their gradients ``(n,)``, read at each step from the same memory.
        lr: learning rate.

    Attributes:
        lr: may be changed between steps (on a GPU, before steps are recorded as a graph).
    """

    def __init__(self, weights: Tensor, grads: Tensor, lr: float) -> None:
        self.lr = lr
        self._moments = torch.zeros_like(weights), torch.zeros_like(weights)
        pieces = (list(vector.split(piece(weights))) for vector in (weights, grads, *self._moments))
        self._weights, self._grads, self._firsts, self._seconds = pieces
        self._steps = torch.zeros(len(self._weights), dtype=torch.float32, device=weights.device)
        self._step_of_each = list(self._steps)  # the kernel wants one per tensor, and float32

    @torch.no_grad()
    def step(self) -> None:
        """One step of all weights."""
        self._steps += 1
        torch._fused_adam_(
            self._weights,
            self._grads,
            self._firsts,
            self._seconds,
            [],
            self._step_of_each,
            lr=self.lr,
            beta1=BETAS[0],
            beta2=BETAS[1],
            weight_decay=0.0,
            eps=EPSILON,
            amsgrad=False,
            maximize=False,
        )

    @torch.no_grad()
    def clipped_step(self, kernel: Callable[..., float], most: float | None) -> float:
        """One step of all weights on a CPU, after scaling the gradients to a norm of at most ``most``.

        Args:
            kernel: what does both in one go; see :meth:`Library.adam`.
            most: no limit by default.

        Returns:
            What the norm was before.
        """
        self._steps += 1
        vectors = self._weights[0], self._grads[0], self._firsts[0], self._seconds[0]
        return kernel(*vectors, most, self.lr, *BETAS, EPSILON, self._steps.item())

    def state_dict(self) -> dict[str, Tensor]:
        """For a checkpoint: number of steps, and the moments ``(n,)``."""
        first, second = self._moments
        return {"steps": self._steps[:1].clone(), "first": first.clone(), "second": second.clone()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore :meth:`state_dict`. Raises ValueError or KeyError if it is of another network."""
        for moment, saved in zip(self._moments, (state["first"], state["second"])):
            if moment.shape != saved.shape:
                raise ValueError(f"an optimiser of {len(saved)} weights, expected {len(moment)}")
            moment.copy_(saved)
        self._steps.copy_(state["steps"].expand_as(self._steps))
