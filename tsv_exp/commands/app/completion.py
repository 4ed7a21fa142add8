"""Tab completion of the commands that are no Hydra applications, installed in the same way: -sc install=bash."""

from collections.abc import Callable, Iterable, Sequence

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_search_path_impl import ConfigSearchPathImpl
from hydra._internal.core_plugins.bash_completion import BashCompletion
from hydra._internal.core_plugins.fish_completion import FishCompletion
from hydra.core.plugins import Plugins
from hydra.plugins.completion_plugin import CompletionPlugin

from tsv_exp.errors import UserError

Words = Callable[[Sequence[str]], Iterable[str]]  # the words typed before -> what may follow

SHELLS: dict[str, type[CompletionPlugin]] = {"bash": BashCompletion, "zsh": BashCompletion, "fish": FishCompletion}
OPTIONS = ("-sc", "--shell-completion")


def complete(arguments: Sequence[str], words: Words) -> None:
    """Answer -sc install=SHELL, uninstall=SHELL or query=SHELL on standard output.

    Raises:
        UserError: it is something else.
    """
    action, _, shell = (arguments[1] if len(arguments) > 1 else "").partition("=")
    if action not in ("install", "uninstall", "query") or shell not in SHELLS:
        raise UserError(f"{arguments[0]}: give install, uninstall or query, as in install={', install='.join(SHELLS)}")

    def candidates(config_name: str | None, line: str) -> list[str]:
        typed = line.split(" ")
        return [word for word in words(typed[:-1]) if word.startswith(typed[-1])]

    Plugins.instance()
    plugin = SHELLS[shell](ConfigLoaderImpl(ConfigSearchPathImpl()))
    plugin._query = candidates  # type: ignore[method-assign] # Hydra's are the keys of an application
    if action == "query":
        plugin.query(None)
    else:
        getattr(plugin, action)()
