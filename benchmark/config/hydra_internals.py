"""The private names of Hydra that the suite needs, each with the reason; no other file has any.

They are called, never replaced.
"""

from argparse import ArgumentParser
from typing import Any, cast

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.utils import get_args_parser
from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig

# Of a configuration from elsewhere, only where a plugin lies tells that it is Hydra's own.
HYDRAS_PLUGINS = (
    "hydra._internal.core_plugins.basic_launcher.BasicLauncher",
    "hydra._internal.core_plugins.basic_sweeper.BasicSweeper",
)


def switches_parser() -> ArgumentParser:
    """Return the parser of Hydra's switches.

    Hydra wants all overrides together and tells of errors in several lines. To sort what was typed
    one must know which switches take a value.
    """
    return get_args_parser()


def apply_override(override: Override, config: DictConfig) -> None:
    """Apply an override of a value to a configuration, as Hydra does.

    Through `hydra.compose` it takes a hundred times as long: all files are read again.
    """
    ConfigLoaderImpl._apply_overrides_to_config([override], config)


def plain_value(element: Any) -> Any:
    """Return an element of a sweep without the quotes of Hydra's grammar.

    `Override.value` does that only for what does not sweep.
    """
    return Override._convert_value(element)


def search_again(loader: ConfigLoader) -> None:
    """Have a loader take notice of a change of its search path.

    The path is public, `ConfigLoader.get_search_path`, but read only once.
    """
    implementation = cast(ConfigLoaderImpl, loader)
    implementation.repository.initialize_sources(loader.get_search_path())
