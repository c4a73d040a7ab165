"""The mirror step of the deep learner: drift and neighbourhood measured from an anchor policy."""

from __future__ import annotations

import torch
from torch import Tensor

from plugin_hasac.mehaml.drifts import Drift
from plugin_hasac.mehaml.neighbourhoods import Neighbourhood
from plugin_hasac.modules.distributions import MaskedCategorical, SquashedGaussian
from plugin_hasac.modules.policies import Policies

HALVINGS = 12  # of a step that leaves the neighbourhood, before it is taken back to the anchor


class MirrorStep:
    """What a MEHAML instance adds to HASAC's update of the policies.

    A drift is 0 with zero gradient where a step begins, so it acts only if a step takes several updates. The policy pi
    that a step begins from, the anchor, is therefore renewed every ``interval`` updates.

    Args:
        policies: that learn.
        drift: or ``None``.
        neighbourhood: or ``None``.
        interval: updates per step.
    """

    def __init__(
        self, policies: Policies, drift: Drift | None, neighbourhood: Neighbourhood | None, interval: int
    ) -> None:
        self.policies, self.drift, self.neighbourhood, self.interval = policies, drift, neighbourhood, interval
        self.anchor = [net.flat.clone() for net in policies.nets]
        self._updates = 0

    @property
    def active(self) -> bool:
        """Whether this differs from HASAC."""
        return self.drift is not None or self.neighbourhood is not None

    def begin(self) -> None:
        """An update of all policies begins."""
        if self.active and self._updates % self.interval == 0:
            for anchor, net in zip(self.anchor, self.policies.nets):
                anchor.copy_(net.flat)
        self._updates += 1

    @torch.no_grad()
    def old_policy(self, agent: int, obs: Tensor, avail: Tensor) -> MaskedCategorical | SquashedGaussian:
        """pi_i, ``(batch,)`` distributions. Arguments as :meth:`Policies.of_agent`."""
        return self.policies.of_agent(agent, obs, avail, self._anchor_weights(agent))

    def of_choices(
        self, new: MaskedCategorical, old: MaskedCategorical, values: Tensor | None, alpha: Tensor
    ) -> Tensor:
        """The drift for discrete actions, ``(batch,)``; with several factors, the sum of theirs.

        Args:
            new: pi-hat, with gradient.
            old: pi.
            values: Q of each choice in reward units, ``(batch, encoded_dim)``, if the drift asks for them.
            alpha: the temperature.
        """
        assert self.drift is not None
        advantage = torch.zeros_like(old.log_probs) if values is None else old.advantage(values, alpha)
        return self.drift.exact(new.log_probs, old.log_probs, advantage)

    @torch.no_grad()
    def enter_neighbourhood(self, agent: int, obs: Tensor, avail: Tensor, weight: Tensor) -> None:
        """Halve the way from the anchor's weights to the present ones until the policy is in the neighbourhood."""
        if self.neighbourhood is None:
            return
        old, weights = self.old_policy(agent, obs, avail), self.policies.weights(agent)
        anchor = self._anchor_weights(agent)
        for _ in range(HALVINGS):
            if bool(self.neighbourhood.contains(self.policies.of_agent(agent, obs, avail), old, weight)):
                return
            weights.lerp_(anchor, 0.5)
        weights.copy_(anchor)

    def _anchor_weights(self, agent: int) -> Tensor:
        group, member = self.policies.place[agent]
        return self.anchor[group][0 if self.policies.share_param else member]

    def state_dict(self) -> dict:
        """For a checkpoint."""
        return {"anchor": [anchor.clone() for anchor in self.anchor], "updates": self._updates}

    def load_state_dict(self, state: dict) -> None:
        """Restore :meth:`state_dict`."""
        for mine, saved in zip(self.anchor, state["anchor"]):
            mine.copy_(saved)
        self._updates = state["updates"]
