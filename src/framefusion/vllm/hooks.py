"""Where framefusion takes hold of vLLM: its configuration, its models, its runners.

Nothing here does anything until a configuration names us. From then on either every hook holds or the engine does not
start: it never goes on with its own rule without saying so.
"""

from __future__ import annotations

import copyreg
import inspect
import logging
from collections.abc import Callable
from functools import wraps
from pkgutil import resolve_name
from typing import Any

from framefusion.errors import ArgumentError, FrameFusionError
from framefusion.selection import warm_up
from framefusion.vllm.qwen import replacements
from framefusion.vllm.rate import Rate
from framefusion.vllm.settings import ServingSettings

# A child of the engine's own logger, whose handlers print it.
logger = logging.getLogger("vllm.framefusion")

KEY = "framefusion"
"""What ``--additional-config`` calls us."""
TESTED = ((0, 32), (0, 33))
"""From which version of vLLM on, and below which."""
ARCHITECTURES = (
    "Qwen2_5_VLForConditionalGeneration",
    "Qwen3VLForConditionalGeneration",
    "Qwen3VLMoeForConditionalGeneration",
)
RUNNERS = (
    "vllm.v1.worker.gpu_model_runner.GPUModelRunner",
    "vllm.v1.worker.cpu_model_runner.CPUModelRunner",
    "vllm.v1.worker.gpu.model_runner.GPUModelRunner",
)


class HookError(FrameFusionError, RuntimeError):
    """This vLLM is not one that framefusion can take hold of."""


def watch_configurations() -> None:
    """Read every configuration that this process makes; the only thing an installed plugin does by itself."""
    from vllm.config import VllmConfig

    def around(stock: Callable[..., None]) -> Callable[..., None]:
        @wraps(stock)
        def post_init(self: Any, *args: Any) -> None:
            stock(self, *args)
            _enable(self)

        return post_init

    _replace(VllmConfig, "__post_init__", around)


def _enable(config: Any) -> None:
    """Let the engine of a configuration that names us select by us."""
    given = config.additional_config
    if not isinstance(given, dict) or KEY not in given:
        return
    speculative = config.speculative_config
    if speculative is not None and config.model_config is speculative.draft_model_config:
        # The configuration of a drafter, made from that of its target.
        return
    try:
        settings, rate = ServingSettings.parse(given[KEY])
        rate = _rate(config, rate)
    except ValueError as error:
        raise ArgumentError(f"additional_config[{KEY!r}]: {error}") from error
    install()
    config.model_config.multimodal_config.video_pruning_rate = Rate(rate, settings)
    logger.info(
        "framefusion selects video tokens: rate %s, %s%s",
        rate,
        settings,
        "" if rate else " (rate 0: nothing is pruned)",
    )


def _rate(config: Any, rate: float | None) -> float:
    """The rate of an engine that we can prune in; ``rate`` is what our own settings say.

    Raises:
        ValueError: we cannot, or no rate or two different ones are given.
    """
    architecture = None if config.model_config is None else config.model_config.architecture
    if architecture not in ARCHITECTURES:
        raise ArgumentError(
            f"framefusion prunes in vLLM for {', '.join(ARCHITECTURES)}; this model is {architecture}. Leave the key "
            "out."
        )
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
    multimodal = config.model_config.multimodal_config
    if multimodal is None:
        raise ArgumentError("this configuration serves text only, and nothing can be pruned; leave the key out.")
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


def receive(rate: float, settings: ServingSettings) -> Rate:
    """A rate that another process sent: this one selects by it too, so it needs the hooks."""
    install()
    return Rate(rate, settings)


copyreg.pickle(Rate, lambda rate: (receive, (float(rate), rate.settings)))


def install() -> None:
    """Put the hooks into this process, once.

    Raises:
        HookError: a version that was not tested, or one that lacks something; names what.
    """
    import vllm

    version = tuple(int(part) for part in vllm.__version__.split("+")[0].split(".")[:2])
    low, high = TESTED
    if not low <= version < high:
        raise HookError(
            f"framefusion was tested with vLLM >= {low[0]}.{low[1]}, < {high[0]}.{high[1]}; this is "
            f"{vllm.__version__}. Leave {KEY!r} out of --additional-config, or install a tested version."
        )
    # All are looked at before the first is put in.
    for owner, name, around in [_checked(*hook) for hook in hooks()]:
        _replace(owner, name, around)


def hooks() -> list[tuple[str, str, tuple[str, ...] | None, Callable[..., Any]]]:
    """Everything that is replaced: where, which name, the parameters it must have (None: any), what goes around it."""
    return [
        *replacements(),
        ("vllm.config.multimodal.MultiModalConfig", "get_video_pruning_spec", ("self",), _spec),
        *((runner, "load_model", None, _checked_load) for runner in RUNNERS),
    ]


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
        # vLLM's CPU runner never sets this, and would then fail on the channels of positions.
        self.is_multimodal_pruning_enabled = rate > 0
        if self.device.type == "cpu":
            # What is compiled at the first selection is compiled before the first request.
            warm_up()
        logger.info("framefusion prunes %s in this worker", type(self.get_model()).__name__)

    return load_model


def _checked(
    where: str, name: str, parameters: tuple[str, ...] | None, around: Callable[..., Any]
) -> tuple[Any, str, Callable[..., Any]]:
    """Find what a hook goes around; ``parameters`` are the ones it relies on, None for any."""
    try:
        owner = resolve_name(where)
        stock = vars(owner)[name]
    except (ImportError, AttributeError, KeyError) as error:
        raise HookError(f"this vLLM has no {where}.{name}, which framefusion needs.") from error
    found = tuple(inspect.signature(stock).parameters)
    if parameters is not None and found != parameters:
        raise HookError(
            f"{where}.{name} of this vLLM takes ({', '.join(found)}); framefusion knows it with "
            f"({', '.join(parameters)})."
        )
    return owner, name, around


def _replace(owner: Any, name: str, around: Callable[..., Any]) -> None:
    """Put ``around(stock)`` in the place of ``owner.name``, once."""
    stock = vars(owner)[name]
    if not hasattr(stock, "_framefusion"):
        replaced = around(stock)
        replaced._framefusion = True
        setattr(owner, name, replaced)
