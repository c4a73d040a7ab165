"""The hyper-parameters of HASAC: what each means, which values it takes, where it comes from."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from plugin_hasac.errors import UserError, did_you_mean

Check = Callable[[Any], bool]


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _integer(low: int) -> tuple[Check, str]:
    return lambda v: isinstance(v, int) and not isinstance(v, bool) and v >= low, f"a whole number of at least {low}"


def _between(low: float, high: float, *, open_low: bool = False) -> tuple[Check, str]:
    text = f"a number {'above' if open_low else 'from'} {low:g} {'up ' if open_low else ''}to {high:g}"
    return lambda v: _number(v) and (low < v if open_low else low <= v) and v <= high, text


def _positive() -> tuple[Check, str]:
    return lambda v: _number(v) and 0 < v < float("inf"), "a positive number"


def _flag() -> tuple[Check, str]:
    return lambda v: isinstance(v, bool), "True or False"


def _one_of(*choices: str) -> tuple[Check, str]:
    return lambda v: v in choices, " or ".join(repr(choice) for choice in choices)


def _sizes() -> tuple[Check, str]:
    def check(value: Any) -> bool:
        return isinstance(value, (list, tuple)) and len(value) > 0 and all(_integer(1)[0](size) for size in value)

    return check, "a list of layer widths such as [256, 256]"


def _alpha() -> tuple[Check, str]:
    def check(value: Any) -> bool:
        values = value if isinstance(value, (list, tuple)) else [value]
        return len(values) > 0 and all(_number(v) and 0 <= v < float("inf") for v in values)

    return check, "a number of at least 0, or a list with one such number per agent"


def _mapping() -> tuple[Check, str]:
    return lambda v: v is None or isinstance(v, Mapping), "a mapping such as {strength: 0.5}"


def _optional(rule: tuple[Check, str], word: str | None) -> tuple[Check, str]:
    check, text = rule
    return lambda v: v == word or check(v), f"{text}, or {'null' if word is None else word}"


def option(default: Any, rule: tuple[Check, str], doc: str) -> Any:
    """A field with its rule and its explanation."""
    return dataclasses.field(default=default, metadata={"check": rule[0], "expected": rule[1], "doc": doc})


@dataclass(frozen=True)
class HasacConfig:
    """Hyper-parameters of HASAC, named as in the paper. ``hasac options`` prints them with their explanations.

    Keys that hosts already have (``gamma``, ``lr``, ``grad_norm_clip``, ``batch_size_run``) keep the host's meaning.
    """

    # What is learned from
    gamma: float = option(0.95, _between(0, 1), "discount factor")
    n_step: int = option(1, _integer(1), "steps of reward in the soft n-step target before it bootstraps")
    time_limit_bootstrap: str = option(
        "proper",
        _one_of("proper", "host"),
        "'proper': an episode cut off by its time limit bootstraps; 'host': as the host's own runners pass it on",
    )
    replay_size: int = option(1_000_000, _integer(1), "env steps that the replay remembers, over all parallel envs")
    replay_batch_size: int = option(256, _integer(1), "transitions per gradient step")
    warmup_steps: int = option(
        5000, _integer(0), "env steps in the replay before learning; until then actions are random"
    )
    train_interval: int = option(50, _integer(1), "steps of every parallel env between two calls of the learner")
    update_per_train: float = option(1.0, _positive(), "gradient updates per step of all parallel envs")
    # Networks
    hidden_sizes: tuple[int, ...] = option((64, 64), _sizes(), "hidden layers of policies and critics")
    activation: str = option("relu", _one_of("relu", "tanh", "silu"), "activation of the hidden layers")
    use_feature_normalization: bool = option(True, _flag(), "LayerNorm on the observations")
    share_param: bool = option(False, _flag(), "one policy network for all agents of equal spaces instead of one each")
    # Actors
    lr: float = option(5e-4, _positive(), "learning rate of the policies")
    actor_gradient: str = option(
        "exact",
        _one_of("exact", "gumbel"),
        "for discrete actions. 'exact': expectation over the agent's own actions; 'gumbel': straight-through "
        "Gumbel-softmax sample",
    )
    sequential_update: bool = option(
        True, _flag(), "each agent responds to the agents before it as they are after their step (off: MASAC)"
    )
    fixed_order: bool = option(False, _flag(), "update the agents in order 0…n-1 instead of a random order every time")
    use_policy_active_masks: bool = option(
        True, _flag(), "leave rows without a choice (dead agents) out of an agent's loss"
    )
    # MEHAML: another instance than HASAC
    drift: str = option(
        "none",
        (lambda v: isinstance(v, str), "a drift functional's name, or the path of a class"),
        "what a step of a policy costs: none (HASAC), kl, squared_log_ratio, clipped, or your own my_module.MyDrift",
    )
    drift_args: Mapping[str, Any] | None = option(
        None, _mapping(), "arguments of the drift, such as {strength: 0.5}; what is null is left to the class"
    )
    neighbourhood: str = option(
        "everything",
        (lambda v: isinstance(v, str), "a neighbourhood's name, or the path of a class"),
        "how far a step of a policy may go: everything (HASAC), kl_ball, or your own my_module.MyNeighbourhood",
    )
    neighbourhood_args: Mapping[str, Any] | None = option(
        None, _mapping(), "arguments of the neighbourhood, such as {radius: 0.05}; what is null is left to the class"
    )
    anchor_interval: int = option(
        50, _integer(1), "updates per step: how long drift and neighbourhood are measured from the same policy"
    )
    # Critics
    critic_lr: float = option(5e-4, _positive(), "learning rate of the critics")
    polyak: float = option(0.005, _between(0, 1, open_low=True), "step of the target critics towards the critics")
    use_huber_loss: bool = option(False, _flag(), "Huber instead of squared loss for the critics")
    huber_delta: float = option(
        10.0, _positive(), "where the Huber loss turns linear, in units of the (normalised) target"
    )
    use_valuenorm: bool = option(True, _flag(), "normalise the critics' targets by running statistics (PopArt)")
    valuenorm_decay: float = option(0.999, _between(0, 1), "decay of these statistics per update")
    grad_norm_clip: float | None = option(
        10.0, _optional(_positive(), None), "clip each network's gradient to this L2 norm"
    )
    # Temperature
    auto_alpha: bool = option(True, _flag(), "tune each agent's temperature towards its target entropy")
    alpha: float | tuple[float, ...] = option(
        0.15, _alpha(), "temperature (its start when tuned), in alpha_unit per nat; a list gives one per agent"
    )
    alpha_unit: str = option(
        "reward_std",
        _one_of("reward", "reward_std"),
        "'reward': the env's rewards; 'reward_std': the standard deviation of the rewards in the replay when learning "
        "starts (1 if they do not differ), so that alpha means the same for rewards of any size",
    )
    alpha_lr: float = option(1e-3, _positive(), "learning rate of log(alpha)")
    target_entropy: float | str = option(
        "auto",
        _optional((_number, "a number of nats"), "auto"),
        "target entropy of each policy; 'auto': target_entropy_fraction of the entropy of the uniform policy, for Box "
        "minus the number of dimensions on the [-1, 1] scale",
    )
    target_entropy_fraction: float = option(
        0.2, _between(0, 1), "fraction of log(number of available actions) that 'auto' aims at for discrete actions"
    )
    # Where the values come from
    tuned: bool = option(
        True, _flag(), "'hasac run' starts from the authors' settings for the task (config/tuned) where they are known"
    )
    # Machine
    env_workers: int = option(0, _integer(0), "processes that step the envs; 0: in the main process")
    cpu_threads: int | None = option(
        None,
        _optional(_integer(1), None),
        "threads of the tensor arithmetic on the CPU; null: as the host sets them, or 1 if a GPU does the learning",
    )
    overlap: bool = option(
        False,
        _flag(),
        "on a GPU: step the envs while updates run, with the policies from before these updates; off: in turns",
    )
    matmul_precision: str = option(
        "highest",
        _one_of("highest", "high", "medium"),
        "of float32 matrix products, as torch.set_float32_matmul_precision: 'high' and 'medium' let tensor cores or "
        "bfloat16 matrix units do them where there are any",
    )
    fast_update: bool = option(
        True,
        _flag(),
        "gradients worked by hand, on a GPU as CUDA graphs; off: the reference, written to be read",
    )

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> HasacConfig:
        """Pick this class's fields out of a host's whole config.

        Raises:
            UserError: for an impossible value; the message names the key, the value and what was expected.
        """
        chosen: dict[str, Any] = {}
        for field in dataclasses.fields(cls):
            if field.name not in values:
                continue
            value = values[field.name]
            if (
                field.metadata["expected"].startswith("a whole number")
                and isinstance(value, float)
                and value == int(value)
            ):
                value = int(value)  # YAML reads 1e6 as a float
            if not field.metadata["check"](value):
                raise UserError(
                    f"{field.name}: {value!r} is not {field.metadata['expected']}. "
                    f"Set it in the algorithm's YAML or with '{field.name}=…' after 'with'."
                )
            chosen[field.name] = tuple(value) if isinstance(value, list) else value
        config = cls(**chosen)
        config._check_together(values.get("batch_size_run", 1))
        return config

    def _check_together(self, n_envs: int) -> None:
        if self.replay_size // n_envs <= self.n_step + 2:
            raise UserError(
                f"replay_size: {self.replay_size} leaves too few steps for each of the {n_envs} parallel envs "
                f"(batch_size_run) at n_step {self.n_step}; expected at least {n_envs * (self.n_step + 3)}."
            )
        if self.warmup_steps > self.replay_size:
            raise UserError(
                f"warmup_steps: {self.warmup_steps} is more than replay_size {self.replay_size}, so learning would "
                "never start; lower it or raise replay_size."
            )
        alphas = self.alpha if isinstance(self.alpha, tuple) else (self.alpha,)
        if self.auto_alpha and 0 in alphas:
            raise UserError(
                "alpha: a tuned temperature cannot start at 0; expected a positive number, or auto_alpha=False."
            )

    @property
    def target_entropy_nats(self) -> float | None:
        """The target entropy when it is given as a number."""
        return None if self.target_entropy == "auto" else float(self.target_entropy)

    def initial_alphas(self, n_agents: int) -> list[float]:
        """One starting temperature per agent.

        Raises:
            UserError: if ``alpha`` is a list of another length.
        """
        if not isinstance(self.alpha, tuple):
            return [float(self.alpha)] * n_agents
        if len(self.alpha) != n_agents:
            raise UserError(
                f"alpha: {len(self.alpha)} temperatures for {n_agents} agents; expected one each, or one number."
            )
        return [float(value) for value in self.alpha]


def check_keys(given: Mapping[str, Any], known: set[str], where: str) -> None:
    """Refuse keys that nothing reads.

    Raises:
        UserError: names the first unknown key and the closest known one.
    """
    for key in given:
        if key not in known:
            raise UserError(f"unknown key '{key}' {where}.{did_you_mean(key, known)}")
