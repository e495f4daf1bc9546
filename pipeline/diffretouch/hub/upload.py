"""Folders of models and adapters that load anywhere, and the way to the Hub.

    export(pipe, "my-model")                     # self-contained: weights, code, card
    write_model_card("my-model", evaluation="quality.json", config="config.yaml", log="log.jsonl")
    push("my-model", "me/my-model")              # or pipe.push_to_hub("me/my-model")

What the Hub refuses, and a connection that breaks, come out as one sentence that says what to do.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from diffusers import DiffusionPipeline
from huggingface_hub import (
    CommitInfo,
    CommitOperationAdd,
    HfApi,
    ModelCard,
    ModelCardData,
    RepoCard,
    get_token,
    snapshot_download,
)
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, RepositoryNotFoundError
from huggingface_hub.utils import validate_repo_id

from ..files import folder_atomically
from ..model.adapter_file_diffretouch import ADAPTER_FILE, parse_adapter
from ..model.folder_diffretouch import CODE_MODULES
from ..model.lora_diffretouch import DiffRetouchLoraLoaderMixin
from .card import model_card, write_model_card
from .folders import INDEX, UNNAMED, hub_id, is_adapter, read_index

__all__ = ["HubError", "export", "model_card", "push", "write_model_card"]

_PACKAGE = Path(__file__).parents[1]
_LEFT_BEHIND = ("training_state.pt", "__pycache__", ".*")


class HubError(RuntimeError):
    """The Hub refused, could not be reached, or the connection broke; the message is one sentence for the user."""


# ---- folders -------------------------------------------------------------------------------------------------------


def export(
    model: DiffusionPipeline | str | Path,
    folder: str | Path,
    *,
    repo_id: str = UNNAMED,
    safe_serialization: bool = True,
    variant: str | None = None,
) -> Path:
    """Write a self-contained model folder: weights, the code files of the installed package, a model card.

    It loads with this package without remote code, and with diffusers alone with `trust_remote_code=True`. An
    adapter's folder has weights and a card.

    Args:
        model: a `DiffRetouchPipeline`, or the folder or Hub id of one or of an adapter. A folder's files are copied as
            they are (every dtype and variant), its card too if it has one; only the code is replaced by the installed
            package's.
        folder: where to; it must not exist, or be empty. It appears whole or not at all.
        repo_id: the name that the card's example loads.
        safe_serialization, variant: as in `save_pretrained`; for a pipeline only.

    Raises:
        FileExistsError: if `folder` holds something.
        ValueError: if `model` is no DiffRetouch model and no adapter, or a pipeline with adapters loaded.
        HubError: if it is a Hub id that cannot be fetched.

    Example:
        >>> from diffretouch import BUNDLED_MODEL, export
        >>> folder = export(BUNDLED_MODEL, "my-model")
        >>> (folder / "README.md").exists() and (folder / "pipeline_diffretouch.py").exists()
        True
    """
    target = Path(folder)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise FileExistsError(f"`folder` has to be new or empty, got {target}.")
    with folder_atomically(target) as partial:
        if isinstance(model, DiffusionPipeline):
            model.save_pretrained(partial, safe_serialization=safe_serialization, variant=variant)
            write_model_card(partial, repo_id=repo_id, **_inherited(model))
        else:
            _copy_files(_local_folder(model), partial)
            if not (partial / "README.md").exists():
                write_model_card(partial, repo_id=repo_id)
        _forget_paths(partial)
    return target


def _local_folder(model: str | Path) -> Path:
    if Path(model).is_dir():
        return Path(model)
    with _one_sentence(str(model), "download"):
        return Path(snapshot_download(str(model)))


def _check_adapter(folder: Path) -> None:
    tensors, metadata = DiffRetouchLoraLoaderMixin.lora_state_dict(folder)
    parse_adapter(tensors, metadata["lora"], "The adapter")


def _copy_files(source: Path, target: Path) -> None:
    leave = shutil.ignore_patterns(*_LEFT_BEHIND)
    if is_adapter(source):
        _check_adapter(source)
        shutil.copytree(source, target, dirs_exist_ok=True, ignore=leave)
        return
    index = read_index(source)
    shutil.copytree(source, target, dirs_exist_ok=True, ignore=leave)
    # Older models came with fewer code files, of which the pipeline's needs more now.
    for path in {*target.rglob("*.py"), *(target / f"{name}.py" for name in CODE_MODULES)}:
        installed = _PACKAGE / "model" / path.name
        if installed.is_file():
            shutil.copyfile(installed, path)
    if isinstance(index.get("attributes"), list):
        # How the first checkpoints were saved; by Hub id, diffusers takes every list for the address of a component.
        index["attributes"] = ",".join(index["attributes"])
        (target / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _forget_paths(folder: Path) -> None:
    """Drop where each configuration was loaded from, which diffusers writes down: strangers need not know."""
    for path in folder.rglob("*.json"):
        config = json.loads(path.read_text(encoding="utf-8"))
        if "_name_or_path" in config:
            del config["_name_or_path"]
            path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _inherited(pipe: DiffusionPipeline) -> dict[str, Any]:
    """What the card of a pipeline that was loaded and saved again has to say about the model it was loaded from."""
    origin = pipe.config.get("_name_or_path")
    if origin is None or pipe.config.get("provenance"):
        return {}
    if hub_id(origin):
        return {"base_model": origin}
    card = Path(origin) / "README.md"
    data = ModelCard.load(card, ignore_metadata_errors=True).data if card.is_file() else ModelCardData()
    kept = {name: data.get(name) for name in ("base_model", "license", "license_name", "license_link")}
    return {name: value for name, value in kept.items() if isinstance(value, str)}


# ---- the Hub -------------------------------------------------------------------------------------------------------


def push(
    source: DiffusionPipeline | str | Path,
    repo_id: str,
    *,
    private: bool | None = None,
    token: str | None = None,
    commit_message: str | None = None,
    create_pr: bool = False,
    safe_serialization: bool = True,
    variant: str | None = None,
    subfolder: str | None = None,
) -> CommitInfo:
    """Push a model, adapter, data set or Space to the Hub, as one commit; makes the repository if needed.

    A push that was interrupted is resumed by calling again: files that arrived whole are not sent twice, and nothing
    shows on the Hub before everything is there.

    Args:
        source: a `DiffRetouchPipeline`, or a folder: a self-contained model, an adapter, a data set in the project's
            schema, or a Space (its README.md names an `sdk`). A folder's README.md is its card and replaces the one on
            the Hub; one that a pipeline, model or adapter lacks is made here, a pipeline's only for a repository
            without one.
        repo_id: "owner/name", or "name" in the token's own namespace.
        private: makes a new repository private; None leaves it to the owner's default.
        token: with write access; None takes the one of `hf auth login` or HF_TOKEN.
        commit_message: None for "Upload DiffRetouchPipeline" and the like.
        create_pr: open a pull request instead of writing to the main branch.
        safe_serialization, variant: as in `save_pretrained`; for a pipeline only.
        subfolder: where in the repository; the card stays out of subfolders.

    Returns:
        What `huggingface_hub` returns of the commit; as a str it is the commit's URL.

    Raises:
        ValueError: if `repo_id` is not a name the Hub allows, the folder is none of the four, an adapter is damaged,
            or a pipeline has adapters loaded.
        HubError: if there is no token, the token may not write there, or the connection breaks.

    Example:
        >>> from diffretouch import push
        >>> push("my-model", "me/my-model", private=True)  # doctest: +SKIP
    """
    _check_repo_id(repo_id)
    if isinstance(source, DiffusionPipeline):
        source._check_unloaded()  # before a repository is made for nothing
    kind, details = ("model", {}) if isinstance(source, DiffusionPipeline) else _kind_of(Path(source), private)
    if token is None and get_token() is None:
        raise HubError("Pushing needs a token with write access: run `hf auth login`, set HF_TOKEN or pass `token`.")
    api = HfApi(token=token)
    with _one_sentence(repo_id, "upload"):
        repo_id = api.create_repo(repo_id, repo_type=kind, private=private, exist_ok=True, **details).repo_id
        if not create_pr:
            api.auth_check(repo_id, repo_type=kind, write=True)
        has_card = bool(api.get_paths_info(repo_id, ["README.md"], repo_type=kind))
    with tempfile.TemporaryDirectory() as scratch:
        if isinstance(source, DiffusionPipeline):
            folder = Path(scratch) / "model"
            export(source, folder, repo_id=repo_id, safe_serialization=safe_serialization, variant=variant)
            message = f"Upload {type(source).__name__}"
        else:
            folder = Path(source)
            message = "Upload adapter" if is_adapter(folder) else f"Upload {kind}"
        files = _files_to_push(folder, kind, repo_id)
        if subfolder is not None or (has_card and isinstance(source, DiffusionPipeline)):
            del files["README.md"]
        prefix = f"{subfolder.strip('/')}/" if subfolder else ""
        operations = [CommitOperationAdd(prefix + name, content) for name, content in files.items()]
        with _one_sentence(repo_id, "upload"):
            return api.create_commit(
                repo_id, operations, commit_message=commit_message or message, repo_type=kind, create_pr=create_pr
            )


def _check_repo_id(repo_id: str) -> None:
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise ValueError(
            "`repo_id` has to be NAME or OWNER/NAME of at most 96 letters, digits, '-', '_' and '.', neither '--' nor "
            f"'..' in it, got {repo_id!r}."
        ) from error


def _kind_of(folder: Path, private: bool | None) -> tuple[str, dict[str, Any]]:
    """("model" | "dataset" | "space", further arguments of `create_repo`)."""
    if (folder / INDEX).is_file():
        read_index(folder)
        return "model", {}
    if is_adapter(folder):
        _check_adapter(folder)
        return "model", {}
    card = RepoCard.load(folder / "README.md").data if (folder / "README.md").is_file() else {}
    if any(folder.glob("data/*.parquet")):
        if card.get("redistributable") is False and not private:
            raise ValueError(
                "`private` has to be True for this data set, got "
                f"{private}: by its card, photos in it may not be passed on."
            )
        return "dataset", {}
    if card.get("sdk"):
        return "space", {"space_sdk": card.get("sdk")}
    raise ValueError(
        f"`folder` has to hold {INDEX} (a model), {ADAPTER_FILE} (an adapter), data/*.parquet (a data set) or a "
        f"README.md with an `sdk` (a Space), got {folder}."
    )


def _files_to_push(folder: Path, kind: str, repo_id: str) -> dict[str, Path | bytes]:
    """{path in the repository: file or bytes}."""
    files: dict[str, Path | bytes] = dict(_files_of(folder))
    if kind == "space" and not (folder / _PACKAGE.name).exists():
        # A Space imports this package, which its machine cannot install from anywhere: it travels with it.
        files |= {f"{_PACKAGE.name}/{name}": path for name, path in _files_of(_PACKAGE)}
    if kind == "model":
        card = folder / "README.md"
        text = card.read_text(encoding="utf-8") if card.is_file() else str(model_card(folder))
        files["README.md"] = text.replace(UNNAMED, repo_id).encode()
    return files


def _files_of(folder: Path) -> Iterator[tuple[str, Path]]:
    """(path inside the folder, file) of all that is to be pushed; links to folders are followed."""
    root = folder.resolve()
    for parent, folders, names in os.walk(root, followlinks=True):
        way = Path(parent)
        above = {path.resolve() for path in (way, *way.parents)}
        # A link back to a folder on the way would never end.
        loops = {name for name in folders if (way / name).resolve() in above}
        folders[:] = sorted(name for name in folders if name not in loops and not _is_left_behind(name))
        for name in sorted(names):
            if not _is_left_behind(name):
                yield (way / name).relative_to(root).as_posix(), way / name


def _is_left_behind(name: str) -> bool:
    return any(fnmatch(name, pattern) for pattern in _LEFT_BEHIND)


@contextmanager
def _one_sentence(repo_id: str, what: str) -> Iterator[None]:
    """Turn the client's errors, which are paragraphs with URLs, into one sentence on what to do."""
    try:
        yield
    except HFValidationError as error:
        raise ValueError(f"`model` has to be a folder or a Hub id, got {repo_id!r}.") from error
    except ValueError as error:
        # Metadata that the Hub does not take; the reasons come as a list.
        raise ValueError(" ".join(str(error).split())) from error
    except RepositoryNotFoundError as error:
        raise HubError(
            f"The Hub shows no {repo_id} to this user: check the name; if it is private, log in with `hf auth login`."
        ) from error
    except HfHubHTTPError as error:
        status = error.response.status_code
        if status == 401:
            reason = "the token is not valid: run `hf auth login` again, or check HF_TOKEN"
        elif status in (402, 403):
            reason = "the token may not write there: use your own namespace, or a token with write access"
        else:
            reason = error.server_message or f"it answered {status}"
        raise HubError(f"The Hub refused the {what} of {repo_id}: {reason}.") from error
    except Exception as error:
        if not _is_broken_connection(error):
            raise
        raise HubError(
            f"The connection to the Hub broke during the {what} of {repo_id}: run it again to go on where it stopped."
        ) from error


def _is_broken_connection(error: BaseException | None) -> bool:
    # The client's HTTP library is httpx or httpx2 by version, and a worker's error comes wrapped in a RuntimeError.
    while error is not None:
        if type(error).__module__.partition(".")[0] in ("httpx", "httpx2") or isinstance(error, ConnectionError):
            return True
        error = error.__cause__
    return False
