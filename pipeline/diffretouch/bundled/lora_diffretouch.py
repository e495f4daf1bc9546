"""LoRA adapters: load, mix, fuse and save what was trained on top of a DiffRetouch model.

    pipe.load_lora_weights("me/my-style", adapter_name="mine")   # a Hub id, a folder or a file
    pipe.set_adapters(["mine", "other"], [0.7, 0.3])
    pipe.unload_lora_weights()                                   # the model as it was, bit for bit

An adapter is one file, `pytorch_lora_weights.safetensors`: low-rank updates of UNet layers (LoRA, arXiv 2106.09685,
section 4.1), the parts that were trained whole beside them, and in its metadata what it was made with and for.

This file travels with every model on the Hub, so it imports nothing of the package but its neighbours.
"""

from __future__ import annotations

import itertools
import logging
import math
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers.loaders.unet_loader_utils import _maybe_expand_lora_scales
from diffusers.utils import USE_PEFT_BACKEND

from .adapter_file_diffretouch import (
    ADAPTER_FILE,
    WHOLE_PARTS,
    check_fit,
    describes_base,
    find_adapter,
    is_for_other_networks,
    parse_adapter,
    read_adapter,
    write_adapter,
)
from .adapter_layers_diffretouch import AdapterLayersMixin, AdapterWeight

logger = logging.getLogger(__name__)

# Relative distance between sampled weights: bfloat16 moves them by 0.003, fine-tuning gently by less than 0.05, and
# models that were trained apart are 1 apart.
_BASE_TOLERANCE = 0.1


class DiffRetouchLoraLoaderMixin(AdapterLayersMixin):
    """Adapters for `DiffRetouchPipeline`, with the methods that pipelines of diffusers have.

    Several adapters may be loaded at once. At weights w_i, a LoRA layer is W + sum_i w_i (alpha_i / r_i) B_i A_i, and
    what adapters hold whole is base + sum_i w_i (tuned_i - base). Everything can be undone exactly: weights that are
    replaced or fused into are kept and put back, never computed back.

    Adapters need `peft` and `transformers`. A call that raises leaves the pipeline as it was.
    """

    _lora_loadable_modules = ["unet"]
    unet_name = "unet"

    # ---- loading and saving -----------------------------------------------------------------------------------------

    def load_lora_weights(
        self,
        pretrained_model_name_or_path_or_dict: str | os.PathLike | Mapping[str, torch.Tensor],
        adapter_name: str | None = None,
        hotswap: bool = False,
        low_cpu_mem_usage: bool = True,
        **hub_options: Any,
    ) -> None:
        """Load an adapter and make it the only active one, at weight 1.

        A file of LoRA layers for other networks alone (a text encoder, say) is a warning, as in diffusers.

        Args:
            pretrained_model_name_or_path_or_dict: the folder or file of an adapter, its Hub id, or its tensors by
                name. Tensors, and files that do not say, have their rank as alpha.
            adapter_name: what to call it here, without dots; None = "default_0" and so on.
            hotswap: put it into the place of the loaded `adapter_name`, which keeps its weight; a compiled UNet stays
                compiled. It may tune fewer layers, and have a lower rank; for a higher one, call
                `enable_lora_hotswap(target_rank=...)` before the first adapter is loaded.
            low_cpu_mem_usage: False makes the layers at random first, which takes longer and gives the same.
            hub_options: any of `weight_name`, `subfolder`, `revision`, `token`, `cache_dir`, `force_download`,
                `local_files_only`, `use_safetensors`; see `lora_state_dict`.

        Raises:
            TypeError, ValueError: if the adapter is damaged, holds NaN or what is no adapter, or was made for another
                base; if the name is taken, or with `hotswap` not loaded; while adapters are fused.
            OSError: if there is no such file, or the Hub does not give it.
            ImportError: without peft.
        """
        if not USE_PEFT_BACKEND:
            raise ImportError("LoRA adapters need peft and transformers: `pip install peft transformers`.")
        self._check_not_fused()
        name = self._check_adapter_name(adapter_name, hotswap)
        tensors, metadata = self.lora_state_dict(pretrained_model_name_or_path_or_dict, **hub_options)
        if is_for_other_networks(tensors):
            return self._bare_unet.load_lora_adapter(tensors, prefix=self.unet_name)  # which warns, and does no more
        adapter = parse_adapter(tensors, metadata.get("lora"), "The adapter")
        with self._without_offloading():
            self._check_base(metadata.get("base"))
            check_fit(adapter, {key: tuple(tensor.shape) for key, tensor in self._tensors().items()})
            if hotswap:
                self._swap(name, adapter)
            else:
                self._inject(name, adapter, low_cpu_mem_usage)
            self._loaded.whole[name] = adapter.whole
            self._blend()

    @classmethod
    def lora_state_dict(
        cls,
        pretrained_model_name_or_path_or_dict: str | os.PathLike | Mapping[str, torch.Tensor],
        *,
        weight_name: str | None = None,
        subfolder: str | None = None,
        revision: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        force_download: bool = False,
        local_files_only: bool | None = False,
        use_safetensors: bool | None = True,
        return_lora_metadata: bool = False,
    ) -> tuple[Any, ...]:
        """Read an adapter without loading it.

        Args:
            pretrained_model_name_or_path_or_dict: see `load_lora_weights`.
            weight_name, subfolder: the file, and where in the folder or repository it is; None = the usual name.
            revision, token, cache_dir, force_download, local_files_only: as in `huggingface_hub.hf_hub_download`.
            use_safetensors: not False, because pickles are never opened.
            return_lora_metadata: give what diffusers does then.

        Returns:
            {name: tensor} and the metadata: "lora" (`r`, `lora_alpha`, `target_modules`) and "base" (see
            `lora_base_metadata`; None if other software wrote the file). Tensors in memory have no metadata. With
            `return_lora_metadata` None stands between them, where diffusers has alphas that no metadata states.

        Raises:
            TypeError, ValueError: if it is no safetensors file, is damaged, or contradicts itself in rank and alpha.
            OSError: if there is no such file, or the Hub does not give it.
        """
        if use_safetensors is False:
            raise ValueError("`use_safetensors` has to be None or True, because pickles are never opened, got False.")
        source = pretrained_model_name_or_path_or_dict
        if isinstance(source, Mapping):
            tensors, metadata = dict(source), dict[str, Any]()
        elif isinstance(source, (str, os.PathLike)):
            options = {"revision": revision, "token": token, "cache_dir": cache_dir, "force_download": force_download}
            options["local_files_only"] = bool(local_files_only)
            tensors, metadata = read_adapter(find_adapter(source, weight_name or ADAPTER_FILE, subfolder, options))
        else:
            kind = type(source).__name__
            raise TypeError(
                "`pretrained_model_name_or_path_or_dict` has to be a folder, file, Hub id or dict of tensors, got "
                f"{kind}."
            )
        return (tensors, None, metadata) if return_lora_metadata else (tensors, metadata)

    @classmethod
    def save_lora_weights(
        cls,
        save_directory: str | os.PathLike,
        unet_lora_layers: Mapping[str, torch.Tensor] | torch.nn.Module,
        whole_modules: Mapping[str, torch.Tensor] | None = None,
        unet_lora_adapter_metadata: Mapping[str, Any] | None = None,
        base_metadata: Mapping[str, Any] | None = None,
        weight_name: str | None = None,
        is_main_process: bool = True,
        save_function: Callable[[dict[str, torch.Tensor], str], Any] | None = None,
        safe_serialization: bool = True,
    ) -> None:
        """Write an adapter, which `load_lora_weights` loads; the file appears whole or not at all.

        Args:
            save_directory: made if needed.
            unet_lora_layers: `peft.get_peft_model_state_dict(unet)`, of one rank.
            whole_modules: all tensors of the parts trained whole (`modules_to_save` in peft), by `grid_head.*`,
                `unet.conv_in.*`, `unet.conv_out.*`.
            unet_lora_adapter_metadata: `unet.peft_config[name].to_dict()`; None = alpha is the rank.
            base_metadata: `pipe.lora_base_metadata()` of the model before training, and whatever else is to be kept,
                as JSON can hold it; without it, the adapter would load into other models.
            weight_name: the file's name; None = `pytorch_lora_weights.safetensors`.
            is_main_process: False checks and writes nothing, for the other processes of a distributed training.
            save_function: writes (tensors, path) instead of safetensors, without metadata.
            safe_serialization: not False, because pickles are never opened.

        Raises:
            TypeError, ValueError: if an argument is not as described, or a tensor is not finite.
            OSError: if the file cannot be written.
        """
        if not safe_serialization:
            raise ValueError("`safe_serialization` has to be True, because pickles are never opened, got False.")
        if not isinstance(unet_lora_adapter_metadata, Mapping | None):
            kind = type(unet_lora_adapter_metadata).__name__
            raise TypeError(f"`unet_lora_adapter_metadata` has to be None or a dict, got {kind}.")
        if base_metadata is not None and not describes_base(base_metadata):
            raise ValueError(f"`base_metadata` has to be made by `lora_base_metadata()`, got {base_metadata!r:.80}.")
        tensors = cls.pack_weights(unet_lora_layers, cls.unet_name) | dict(whole_modules or {})
        adapter = parse_adapter(tensors, unet_lora_adapter_metadata, "`unet_lora_layers`")
        if is_main_process:
            write_adapter(Path(save_directory, weight_name or ADAPTER_FILE), adapter, base_metadata, save_function)

    def lora_base_metadata(self) -> dict[str, Any]:
        """What an adapter records of the model it was made for; adapters that are loaded now do not count.

        Returns:
            `model` (its Hub id or its folder's name), `attributes` (the order of its sliders), `provenance` (as in the
            pipeline's configuration, for the card's licence) and `weights` (one of every matrix of the UNet that is
            not tuned whole, in the order of their names).
        """
        name = self.config.get("_name_or_path") or "a model without a name"
        is_folder = os.path.isabs(name) or os.path.exists(name)
        with self._without_offloading():
            tensors = self._tensors() | self._loaded.unfused | self._loaded.replaced
            sampled = [
                float(tensor.flatten()[tensor.numel() // 2])
                for key, tensor in sorted(tensors.items())
                if tensor.ndim > 1 and not key.startswith(WHOLE_PARTS)
            ]
        return {
            "model": Path(name).resolve().name if is_folder else name,
            "attributes": list(self.config.attributes),
            "provenance": self.config.provenance,
            "weights": [float(f"{value:.5g}") for value in sampled],
        }

    # ---- mixing -----------------------------------------------------------------------------------------------------

    def set_adapters(
        self,
        adapter_names: str | Sequence[str],
        adapter_weights: float | Mapping[str, Any] | Sequence[float | Mapping[str, Any] | None] | None = None,
    ) -> None:
        """Choose the active adapters.

        Args:
            adapter_names: of those that are loaded; none = the model itself.
            adapter_weights: one for all, or one per adapter; 0 = no effect, 1 and None = as trained; larger ones
                exaggerate and negative ones do the opposite. As in diffusers, attention blocks of the UNet may have
                their own, {"unet": {"down": 0.5, "mid": 1, "up": {"block_1": [0, 0.5, 1]}}}; whatever is not named,
                and what an adapter holds whole, counts 1 then.

        Raises:
            TypeError, ValueError: naming the argument; while adapters are fused.
        """
        self._check_not_fused()
        names = self._check_loaded(adapter_names)
        weights = _one_each(adapter_weights, len(names))
        self._activate({name: self._weight(weight) for name, weight in zip(names, weights, strict=True)})

    def delete_adapters(self, adapter_names: str | Sequence[str]) -> None:
        """Forget adapters; the others stay as active as they were.

        Raises:
            ValueError: if one is not loaded; while adapters are fused.
        """
        self._check_not_fused()
        names = self._check_loaded(adapter_names)
        if len(names) == len(self._adapter_names()):
            return self.unload_lora_weights()
        with warnings.catch_warnings():
            # peft tells which adapter it makes active instead; the next line decides that.
            warnings.simplefilter("ignore")
            self._bare_unet.delete_adapters(names)
        for name in names:
            self._loaded.whole.pop(name, None)
        self._activate({name: weight for name, weight in self._loaded.weights.items() if name not in names})

    def disable_lora(self) -> None:
        """Work as without adapters until `enable_lora`.

        Raises:
            ValueError: while adapters are fused.
        """
        self._enable(False)

    def enable_lora(self) -> None:
        """Let the active adapters work again after `disable_lora`.

        Raises:
            ValueError: while adapters are fused.
        """
        self._enable(True)

    def unload_lora_weights(self) -> None:
        """Forget all adapters. The weights are as before the first one again; those that were fused stay fused."""
        loaded = self._loaded
        with self._without_offloading():
            if not loaded.fused:
                loaded.weights = {}
                self._blend()
            self._bare_unet.unload_lora()
        self._bare_unet.__dict__.pop("_diffretouch_adapters")

    # ---- fusing -----------------------------------------------------------------------------------------------------

    def fuse_lora(
        self,
        components: Sequence[str] | None = None,
        lora_scale: float = 1.0,
        safe_fusing: bool = False,
        adapter_names: str | Sequence[str] | None = None,
    ) -> None:
        """Put adapters into the weights: the same picture, no cost per step. Further ones may be fused to them.

        Followed by `unload_lora_weights`, the model keeps them for good and can be saved. A copy of the weights is
        kept in memory for `unfuse_lora`.

        Args:
            components: ["unet"] or None, which means the same here; parts tuned whole are fused with it.
            lora_scale: a further factor on the adapters' weights.
            safe_fusing: raise ValueError if a weight comes out infinite or NaN.
            adapter_names: None = the active ones.

        Raises:
            TypeError, ValueError: naming the argument.
        """
        _check_components(components)
        scale = _number("lora_scale", lora_scale)
        loaded = self._loaded
        before = loaded.fused
        if not before:
            # Adapters that training added did not come through `load_lora_weights`.
            loaded.weights = {n: loaded.weights.get(n, AdapterWeight()) for n in self.get_active_adapters()}
        names = self._check_loaded(list(loaded.weights) if adapter_names is None else adapter_names)
        if not names:
            raise ValueError("`adapter_names` has to be at least one loaded adapter, got none.")
        after = before | {name: loaded.weights.get(name, AdapterWeight()).times(scale) for name in names}
        with self._without_offloading():
            try:
                self._fuse(after, safe_fusing)
            except ValueError:
                self._fuse(before, False)
                raise

    def unfuse_lora(self, components: Sequence[str] | None = None) -> None:
        """Take fused adapters out of the weights again, exactly; they are as active as before they were fused.

        Args:
            components: ["unet"] or None.

        Raises:
            ValueError: naming the argument.
        """
        _check_components(components)
        if self._loaded.fused:
            with self._without_offloading():
                self._fuse({}, False)

    @property
    def _merged_adapters(self) -> set[str]:
        """What diffusers' `fused_loras` and `num_fused_loras` tell."""
        return set(self._loaded.fused)

    # ---- borders ----------------------------------------------------------------------------------------------------

    def _check_adapter_name(self, name: Any, hotswap: bool) -> str:
        taken = self._adapter_names()
        if hotswap:
            if name not in taken:
                raise ValueError(
                    f"`adapter_name` has to be one of those loaded to be replaced, {taken}, got {name!r}."
                )
            return name
        if name is None:
            return next(free for n in itertools.count() if (free := f"default_{n}") not in taken)
        if not isinstance(name, str) or not name or "." in name:
            raise ValueError(f"`adapter_name` has to be None or a name without dots, got {name!r}.")
        if name in taken:
            raise ValueError(f"`adapter_name` has to be new, or `hotswap` True, got {name!r}, which is loaded.")
        return name

    def _check_loaded(self, names: Any) -> list[str]:
        names = [names] if isinstance(names, str) else names
        loaded = self._adapter_names()
        known = isinstance(names, (list, tuple)) and all(name in loaded for name in names)
        if not known or len(set(names)) < len(names):
            raise ValueError(f"`adapter_names` has to be one or several of those loaded, {loaded}, got {names!r}.")
        return list(names)

    def _weight(self, weight: Any) -> AdapterWeight:
        """What `set_adapters` is given for one adapter: None, a number, or {"unet": one of these or its blocks}."""
        if isinstance(weight, Mapping):
            foreign = sorted(str(part) for part in weight if part != self.unet_name)
            if foreign:
                logger.warning("Weights of an adapter are of the UNet here, so those of %s are ignored.", foreign)
            weight = weight.get(self.unet_name)
        if not isinstance(weight, Mapping):
            return AdapterWeight(1.0 if weight is None else _number("adapter_weights", weight))
        _check_blocks(weight, self._bare_unet)
        try:
            (blocks,) = _maybe_expand_lora_scales(self._bare_unet, [dict(weight)])
        except ValueError as error:
            raise ValueError(f"`adapter_weights` has to fit the blocks of this UNet, got {weight}: {error}") from error
        return AdapterWeight(1.0, blocks)

    def _check_unloaded(self) -> None:
        """Refuse to save, because layers with adapters do not load again, and the weights may not be the model's."""
        if self._adapter_names():
            raise ValueError(
                f"Adapters have to be unloaded before a model is saved, got {self._adapter_names()} loaded: call "
                "`unload_lora_weights()`, and `fuse_lora()` before it to keep what they do."
            )

    def _check_base(self, theirs: Any) -> None:
        """Refuse an adapter of another model; None comes from other software, which does not say."""
        if theirs is None:
            return
        ours = self.lora_base_metadata()
        sampled, own = (torch.tensor(base["weights"]) for base in (theirs, ours))
        if sampled.shape != own.shape or not (sampled - own).norm() <= _BASE_TOLERANCE * own.norm():
            raise ValueError(
                f"The adapter has to be an adapter of this base, {ours['model']}, "
                f"got one of {theirs['model']} with other weights."
            )
        if theirs["attributes"] != ours["attributes"]:
            raise ValueError(
                f"The adapter has to have its sliders in the order {ours['attributes']}, got {theirs['attributes']}."
            )


def _one_each(weights: Any, count: int) -> list[Any]:
    listed = list(weights) if isinstance(weights, (list, tuple)) else [weights] * count
    if len(listed) != count:
        raise ValueError(f"`adapter_weights` has to be one or one per adapter ({count}), got {len(listed)} of them.")
    return listed


def _number(name: str, weight: Any) -> float:
    if isinstance(weight, bool) or not isinstance(weight, (int, float)):
        raise TypeError(f"`{name}` has to be made of numbers, got {type(weight).__name__}.")
    if not math.isfinite(weight):
        raise ValueError(f"`{name}` has to be finite, got {weight}.")
    return float(weight)


def _check_blocks(weights: Mapping[str, Any], unet: Any) -> None:
    """{"down" or "up": one, or {"block_1": one or a list}, "mid": one}, each a number."""
    known: dict[str, list[str]] = {"mid": []}
    for part in ("down", "up"):
        blocks = getattr(unet, f"{part}_blocks")
        known[part] = [f"block_{i}" for i, block in enumerate(blocks) if hasattr(block, "attentions")]
    for part, inner in weights.items():
        if part not in known:
            raise ValueError(f"`adapter_weights` has to name the blocks down, mid and up of the UNet, got {part!r}.")
        for block, weight in inner.items() if isinstance(inner, Mapping) else [("", inner)]:
            if block and block not in known[part]:
                raise ValueError(f"`adapter_weights` has to name {part} blocks from {known[part]}, got {block!r}.")
            for number in weight if isinstance(weight, list) else [weight]:
                _number("adapter_weights", number)


def _check_components(components: Any) -> None:
    if components is not None and list(components) != ["unet"]:
        raise ValueError(f"`components` has to be None or ['unet'], got {components!r}.")
