"""Self-contained folders: a pipeline saved, loaded and pushed together with its code.

`model_index.json` names the code files that lie beside the weights, so that diffusers alone loads the folder with
`trust_remote_code=True`; with this package installed, the same names are mapped back to the package's classes and no
remote code runs.

This file travels with every model on the Hub, so it imports nothing of the package.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import json
import logging
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, RepositoryNotFoundError

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline as _Base
else:
    _Base = object  # diffusers takes the one subclass of its pipeline in a file for the model's

logger = logging.getLogger(__name__)

CODE_MODULES = (
    "adapter_file_diffretouch",
    "adapter_layers_diffretouch",
    "adapter_look_diffretouch",
    "checks_diffretouch",
    "folder_diffretouch",
    "lora_diffretouch",
    "photo_statistics_diffretouch",
    "pictures_diffretouch",
    "pipeline_diffretouch",
    "sampling_diffretouch",
)
"""The code in the root of a folder: pipeline_diffretouch.py and every module that it imports, and these import."""

# Modules of components whose code travels with a saved model, in the component's folder.
_REMOTE_MODULES = ("modeling_affine_grid", "modeling_latent_codec")
_HUB_OPTIONS = ("repo_id", "private", "token", "commit_message", "create_pr")


class SelfContainedFolderMixin(_Base):
    """Of `DiffRetouchPipeline`: goes before `DiffusionPipeline` among its bases, whose methods it extends."""

    def save_pretrained(
        self,
        save_directory: str | os.PathLike,
        safe_serialization: bool = True,
        variant: str | None = None,
        max_shard_size: int | str | None = None,
        push_to_hub: bool = False,
        **kwargs: Any,
    ) -> None:
        """As in diffusers; with `push_to_hub`, the folder is pushed with our model card, as by `push_to_hub`.

        Raises:
            ValueError: while adapters are loaded, whose layers would not load again.
        """
        self._check_unloaded()
        saving = {"safe_serialization": safe_serialization, "variant": variant}
        with_our_card = push_to_hub and _installed_package() is not None
        if with_our_card:
            pushing = {name: kwargs.pop(name) for name in _HUB_OPTIONS if name in kwargs}
        super().save_pretrained(
            str(save_directory),
            max_shard_size=max_shard_size,
            push_to_hub=push_to_hub and not with_our_card,
            **saving,
            **kwargs,
        )
        if with_our_card:
            repo_id = pushing.pop("repo_id", Path(save_directory).resolve().name)
            self.push_to_hub(repo_id, **saving, **pushing)

    def save_config(self, save_directory: str | os.PathLike, push_to_hub: bool = False, **kwargs: Any) -> None:
        super().save_config(save_directory, push_to_hub=push_to_hub, **kwargs)
        index = Path(save_directory) / self.config_name
        config = json.loads(index.read_text())
        config["_class_name"] = ["pipeline_diffretouch", type(self).__name__]
        # By Hub id, diffusers takes every list for the address of a component.
        config["attributes"] = ",".join(config["attributes"])
        for source in (Path(inspect.getfile(type(self))), *_code_files()):
            _copy_code(source, Path(save_directory))
        for name, component in self.components.items():
            module = type(component).__module__.rpartition(".")[2]
            if module in _REMOTE_MODULES:
                config[name] = [module, type(component).__name__]
                _copy_code(Path(inspect.getfile(type(component))), Path(save_directory) / name)
        index.write_text(json.dumps(config, indent=2) + "\n")

    @classmethod
    def load_config(cls, *args: Any, **kwargs: Any) -> Any:
        loaded = super().load_config(*args, **kwargs)
        config = loaded[0] if isinstance(loaded, tuple) else loaded
        package = _installed_package()
        if package is None:
            return loaded  # diffusers finds the modules beside the weights
        if args and os.path.isdir(args[0]):
            _warn_of_other_code(Path(args[0]))
        for name, value in config.items():
            if isinstance(value, (list, tuple)) and value and value[0] in _REMOTE_MODULES:
                # Imported here because diffusers looks a component's library up among the imported modules.
                module = importlib.import_module(f"{package}.{value[0]}")
                config[name] = [module.__name__, value[1]]
        return loaded

    @classmethod
    def _dict_from_json_file(cls, json_file: str | os.PathLike) -> dict[str, Any]:
        config = super()._dict_from_json_file(json_file)
        if isinstance(config.get("_class_name"), list):
            config["_class_name"] = config["_class_name"][1]
        return config

    @classmethod
    def download(cls, pretrained_model_name: str, **kwargs: Any) -> str | os.PathLike:
        """As in diffusers, and the root's code files too: the snapshot is then complete, also for diffusers alone."""
        try:
            folder = super().download(pretrained_model_name, **kwargs)
        except OSError as error:
            # Not being allowed to see a repository is reported as a failed connection, several causes deep.
            if isinstance(error.__cause__, RepositoryNotFoundError):
                raise OSError(
                    f"The Hub shows no model {pretrained_model_name} to this user: if it is private, log in with "
                    "`hf auth login` or pass `token`."
                ) from error
            raise
        where = {name: kwargs[name] for name in ("cache_dir", "token", "local_files_only") if name in kwargs}
        for code in CODE_MODULES:
            with contextlib.suppress(EntryNotFoundError):
                hf_hub_download(pretrained_model_name, f"{code}.py", revision=Path(folder).name, **where)
        return folder

    def push_to_hub(self, repo_id: str, **kwargs: Any) -> Any:
        """Push the self-contained folder with its model card; arguments as in diffusers, errors in one sentence."""
        if _installed_package() is None:
            return super().push_to_hub(repo_id, **kwargs)
        return of_the_package("push")(self, repo_id, **kwargs)


def of_the_package(name: str) -> Any:
    """What the installed package offers under that public name.

    By name, because this file must not import the package: diffusers would look for it beside every model. A public
    name, because published models keep this file for ever.

    Raises:
        ImportError: where the package is not installed.
    """
    return getattr(importlib.import_module("diffretouch"), name)


def _installed_package() -> str | None:
    """The package this file belongs to; None where it runs as a model's remote code."""
    package = __name__.rpartition(".")[0]
    return None if package.startswith("diffusers_modules") else package


def _warn_of_other_code(folder: Path) -> None:
    """Say so when the code that travels with a model is not the code that is about to run."""
    installed = Path(__file__).parent
    carried = [path for pattern in ("*.py", "*/*.py") for path in sorted(folder.glob(pattern))]
    differing = [
        str(path.relative_to(folder))
        for path in carried
        if (installed / path.name).is_file() and path.read_bytes() != (installed / path.name).read_bytes()
    ]
    if differing:
        logger.warning(
            "%s of the model in %s differ from the installed package, whose code is used: results may differ from its "
            "author's.",
            ", ".join(differing),
            folder,
        )


def _code_files() -> list[Path]:
    return [Path(__file__).with_name(f"{name}.py") for name in CODE_MODULES]


def _copy_code(source: Path, folder: Path) -> None:
    target = folder / source.name
    folder.mkdir(exist_ok=True)
    if not (target.exists() and target.samefile(source)):
        shutil.copyfile(source, target)
