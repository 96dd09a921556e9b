"""Where framefusion takes hold of vLLM: its configuration, its models, its runners.

Nothing here does anything until a configuration names us. From then on either every hook holds or the engine does not
start: it never goes on with its own rule without saying so.
"""

from __future__ import annotations

import copyreg
import inspect
import logging
from collections.abc import Callable, Iterable
from functools import cache, wraps
from pkgutil import resolve_name
from typing import Any

from framefusion.errors import ArgumentError, FrameFusionError
from framefusion.selection import warm_up
from framefusion.vllm.models import FAMILIES, RUN, Family, family_of
from framefusion.vllm.needs import CONFIGURATION, Around, Need
from framefusion.vllm.rate import Rate
from framefusion.vllm.settings import ServingSettings

# A child of the engine's own logger, whose handlers print it.
logger = logging.getLogger("vllm.framefusion")

KEY = "framefusion"
"""What ``--additional-config`` calls us."""
TESTED = ("0.32",)
"""Versions of vLLM whose engine the tests have run. Others run too if they have all that is needed, with a warning."""
RUNNERS = (
    "vllm.v1.worker.gpu_model_runner.GPUModelRunner",
    "vllm.v1.worker.cpu_model_runner.CPUModelRunner",
    "vllm.v1.worker.gpu.model_runner.GPUModelRunner",
)


class HookError(FrameFusionError, RuntimeError):
    """This vLLM is not one that framefusion can take hold of."""


def watch_configurations() -> None:
    """Read every configuration that this process makes; the only thing an installed plugin does by itself."""

    def around(stock: Callable[..., None]) -> Callable[..., None]:
        @wraps(stock)
        def post_init(self: Any, *args: Any) -> None:
            stock(self, *args)
            _enable(self)

        return post_init

    _put_in([Need("vllm.config.vllm.VllmConfig", "__post_init__", around=around)])


def _enable(config: Any) -> None:
    """Let the engine of a configuration that names us select by us."""
    given = getattr(config, "additional_config", None)
    if not isinstance(given, dict) or KEY not in given:
        return
    _put_in(CONFIGURATION)
    speculative = config.speculative_config
    if speculative is not None and config.model_config is speculative.draft_model_config:
        # The configuration of a drafter, made from that of its target.
        return
    try:
        settings, rate = ServingSettings.parse(given[KEY])
        family = _family(config)
        rate = _rate(config, rate)
    except ValueError as error:
        raise ArgumentError(f"additional_config[{KEY!r}]: {error}") from error
    install(family)
    architecture = config.model_config.architecture
    _warn_of_version()
    if architecture not in RUN:
        _warn_of_model(architecture, family.base)
    config.model_config.multimodal_config.video_pruning_rate = Rate(rate, settings, architecture)
    logger.info(
        "framefusion selects video tokens: rate %s, %s%s",
        rate,
        settings,
        "" if rate else " (rate 0: nothing is pruned)",
    )


def _family(config: Any) -> Family:
    """What the model of an engine is for us.

    Raises:
        ValueError: we cannot prune it, or not in this engine.
    """
    model = config.model_config
    family = family_of(None if model is None else model.architecture, model is not None and model.uses_mrope)
    if config.parallel_config.pipeline_parallel_size > 1:
        raise ArgumentError(
            "with pipeline parallelism only the first rank learns the positions of the tokens that stay; use tensor "
            "parallelism instead."
        )
    if config.lora_config is not None and getattr(config.lora_config, "enable_tower_connector_lora", False):
        raise ArgumentError(
            "vLLM sizes LoRA of the vision tower by the tokens that stay, not by those that are encoded; leave "
            "--enable-tower-connector-lora out."
        )
    if getattr(envs(), "VLLM_USE_RUST_FRONTEND", False):
        raise ArgumentError(
            "the Rust frontend lays out prompts where no plugin reaches; leave VLLM_USE_RUST_FRONTEND out."
        )
    if model.multimodal_config is None:
        raise ArgumentError("this configuration serves text only, and nothing can be pruned; leave the key out.")
    return family


def _rate(config: Any, rate: float | None) -> float:
    """The rate of an engine; ``rate`` is what our own settings say.

    Raises:
        ValueError: another rule, no rate or two different ones are given.
    """
    multimodal = config.model_config.multimodal_config
    if multimodal.video_pruning_method != "evs":
        raise ArgumentError(
            f"--video-pruning-method {multimodal.video_pruning_method} is another rule; leave one of the two out."
        )
    asked = multimodal.video_pruning_rate
    if asked is None and rate is None:
        raise ArgumentError('this says how to prune, but not how much: add "rate": 0.8, or --video-pruning-rate 0.8.')
    if asked is not None and rate is not None and abs(asked - rate) > 1e-6:
        raise ArgumentError(f"the settings say rate {rate:g}, --video-pruning-rate {asked:g}; leave one of them out.")
    return float(asked if rate is None else rate)


def envs() -> Any:
    """The engine's environment variables."""
    import vllm.envs

    return vllm.envs


def receive(rate: float, settings: ServingSettings, architecture: str) -> Rate:
    """A rate that another process sent: this one selects by it too, so it needs the hooks."""
    install(FAMILIES[architecture])
    return Rate(rate, settings, architecture)


copyreg.pickle(Rate, lambda rate: (receive, (float(rate), rate.settings, rate.architecture)))


def install(family: Family) -> None:
    """Put the hooks for a family of models into this process, once.

    Raises:
        HookError: this vLLM lacks something or has it with other parameters; names what.
    """
    _put_in(needs_of(family))


def needs_of(family: Family) -> list[Need]:
    """Everything that selecting in a model of this family replaces and uses."""
    return [
        *CONFIGURATION,
        Need("vllm.config.multimodal.MultiModalConfig", "get_video_pruning_spec", ("self",), _spec),
        *(Need(runner, "load_model", around=_checked_load) for runner in RUNNERS),
        *family.needs,
    ]


@cache
def _warn_of_version() -> None:
    """Say once in a process that the tests have not run this version."""
    import vllm

    version = vllm.__version__
    if ".".join(version.split(".")[:2]) not in TESTED:
        logger.warning(
            "framefusion was tested with vLLM %s, not with %s; everything it needs is there, with the parameters it "
            "knows.",
            " and ".join(TESTED),
            version,
        )


@cache
def _warn_of_model(architecture: str, base: str) -> None:
    """Say once in a process that the tests have not run this model."""
    logger.warning(
        "framefusion was tested with %s, not with %s, which inherits what is replaced from %s.",
        ", ".join(sorted(RUN)),
        architecture,
        base.rpartition(".")[2],
    )


def _spec(stock: Callable[..., Any]) -> Callable[..., Any]:
    """Around ``get_video_pruning_spec``, which would make a plain number of our rate."""

    @wraps(stock)
    def spec(self: Any) -> Any:
        found = stock(self)
        if found is not None and isinstance(self.video_pruning_rate, Rate):
            return found[0], self.video_pruning_rate
        return found

    return spec


def _checked_load(stock: Callable[..., None]) -> Callable[..., None]:
    """Around ``load_model`` of a runner: the model must have our rate, and the runner must know that it prunes."""

    @wraps(stock)
    def load_model(self: Any, *args: Any, **kwargs: Any) -> None:
        stock(self, *args, **kwargs)
        config = self.vllm_config
        if not isinstance(config.additional_config, dict) or KEY not in config.additional_config:
            return
        rate = getattr(self.get_model(), "video_pruning_rate", None)
        if not isinstance(rate, Rate):
            raise HookError(
                f"the model did not get framefusion's rate ({rate!r} instead): the engine would prune by its own rule. "
                "Please report this with your vLLM version and options."
            )
        _check_inherited(type(self.get_model()), FAMILIES[rate.architecture])
        # vLLM's CPU runner never sets this, and would then fail on the channels of positions.
        self.is_multimodal_pruning_enabled = rate > 0
        if self.device.type == "cpu":
            # What is compiled at the first selection is compiled before the first request.
            warm_up()
        logger.info("framefusion prunes %s in this worker", type(self.get_model()).__name__)

    return load_model


def _check_inherited(model: type, family: Family) -> None:
    """Raise HookError if a model's class has a method of its own in the place of one of ours."""
    base = resolve_name(family.base)
    if not issubclass(model, base):
        raise HookError(f"{model.__name__} is no {family.base}, whose methods framefusion knows.")
    for need in family.needs:
        if need.where == family.base and getattr(model, need.name) is not getattr(base, need.name):
            raise HookError(
                f"{model.__name__} of this vLLM has a {need.name} of its own, which framefusion does not know."
            )


def _put_in(needs: Iterable[Need]) -> None:
    """Replace what is to be replaced, after a look at everything.

    Raises:
        HookError: something is missing or other than known; then nothing has been replaced.
    """
    for owner, need in [(_owner(need), need) for need in needs]:
        if need.around is not None:
            _replace(owner, need.name, need.around)


def _owner(need: Need) -> Any:
    """The module or class that has what is needed, as it is needed."""
    try:
        owner = resolve_name(need.where)
    except (ImportError, AttributeError) as error:
        raise HookError(str(need.complaint(False, None))) from error
    there = need.name in vars(owner) or need.name in getattr(owner, "__annotations__", {})
    value = vars(owner).get(need.name)
    complaint = need.complaint(there, tuple(inspect.signature(value).parameters) if callable(value) else None)
    if complaint is not None:
        raise HookError(complaint)
    return owner


def _replace(owner: Any, name: str, around: Around) -> None:
    """Put ``around(stock)`` in the place of ``owner.name``, once."""
    stock = vars(owner)[name]
    if not hasattr(stock, "_framefusion"):
        replaced: Any = around(stock)
        replaced._framefusion = True
        setattr(owner, name, replaced)
