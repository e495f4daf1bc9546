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
import json
import math
import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers.loaders.lora_base import LORA_ADAPTER_METADATA_KEY
from diffusers.utils import USE_PEFT_BACKEND
from huggingface_hub import hf_hub_download
from safetensors.torch import save

from .adapter_file_diffretouch import (
    ADAPTER_FILE,
    BASE_METADATA_KEY,
    WHOLE_PARTS,
    check_fit,
    describes_base,
    layer_of,
    one_sentence,
    parse_adapter,
    read_adapter,
)
from .adapter_layers_diffretouch import AdapterLayersMixin

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
        source: str | os.PathLike | Mapping[str, torch.Tensor],
        adapter_name: str | None = None,
        hotswap: bool = False,
        **hub_options: Any,
    ) -> None:
        """Load an adapter and make it the only active one, at weight 1.

        Args:
            source: the folder or file of an adapter, its Hub id, or its tensors by name, whose alpha is their rank.
            adapter_name: what to call it here, without dots; None = "default_0" and so on.
            hotswap: put it into the place of the loaded `adapter_name`, which keeps its weight; a compiled UNet stays
                compiled. It may tune fewer layers, and have a lower rank; for a higher one, call
                `enable_lora_hotswap(target_rank=...)` before the first adapter is loaded.
            hub_options: any of `weight_name`, `subfolder`, `revision`, `token`, `cache_dir`, `force_download`,
                `local_files_only`; see `lora_state_dict`.

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
        tensors, metadata = self.lora_state_dict(source, **hub_options)
        adapter = parse_adapter(tensors, metadata.get("lora"), "source")
        with self._without_offloading():
            self._check_base(metadata.get("base"))
            check_fit(adapter, {key: tuple(tensor.shape) for key, tensor in self._tensors().items()})
            if hotswap:
                self._swap(name, adapter)
            else:
                self._inject(name, adapter)
            self._loaded.whole[name] = adapter.whole
            self._blend()

    @classmethod
    def lora_state_dict(
        cls,
        source: str | os.PathLike | Mapping[str, torch.Tensor],
        *,
        weight_name: str = ADAPTER_FILE,
        subfolder: str | None = None,
        revision: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        force_download: bool = False,
        local_files_only: bool = False,
    ) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """Read an adapter without loading it.

        Args:
            source: see `load_lora_weights`.
            weight_name, subfolder: the file, and where in the folder or repository it is.
            revision, token, cache_dir, force_download, local_files_only: as in `huggingface_hub.hf_hub_download`.

        Returns:
            {name: tensor} and the metadata: "lora" (`r`, `lora_alpha`, `target_modules`) and "base" (see
            `lora_base_metadata`; None if other software wrote the file). Tensors in memory have no metadata.

        Raises:
            TypeError, ValueError: if it is no safetensors file, is damaged, or does not state rank and alpha.
            OSError: if there is no such file, or the Hub does not give it.
        """
        if isinstance(source, Mapping):
            return dict(source), {}
        if not isinstance(source, (str, os.PathLike)):
            raise TypeError(f"`source` has to be a folder, file, Hub id or dict, got {type(source).__name__}.")
        if Path(source).is_file():
            return read_adapter(Path(source))
        if Path(source).is_dir():
            inside = Path(source, subfolder or "", weight_name)
            if not inside.is_file():
                raise FileNotFoundError(f"`source` has to hold {weight_name}, got {inside.parent} without it.")
            return read_adapter(inside)
        with one_sentence(str(source), weight_name):
            path = hf_hub_download(
                str(source),
                weight_name,
                subfolder=subfolder,
                revision=revision,
                token=token,
                cache_dir=cache_dir,
                force_download=force_download,
                local_files_only=local_files_only,
            )
        return read_adapter(Path(path))

    @classmethod
    def save_lora_weights(
        cls,
        save_directory: str | os.PathLike,
        unet_lora_layers: Mapping[str, torch.Tensor],
        whole_modules: Mapping[str, torch.Tensor] | None = None,
        unet_lora_adapter_metadata: Mapping[str, Any] | None = None,
        base_metadata: Mapping[str, Any] | None = None,
        weight_name: str = ADAPTER_FILE,
    ) -> None:
        """Write an adapter, which `load_lora_weights` loads; the file appears whole or not at all.

        Args:
            save_directory: made if needed.
            unet_lora_layers: `peft.get_peft_model_state_dict(unet)`, of one rank.
            whole_modules: all tensors of the parts trained whole (`modules_to_save` in peft), by `grid_head.*`,
                `unet.conv_in.*`, `unet.conv_out.*`.
            unet_lora_adapter_metadata: `unet.peft_config[name].to_dict()`; without it, alpha would be lost.
            base_metadata: `pipe.lora_base_metadata()` of the model before training, and whatever else is to be kept,
                as JSON can hold it; without it, the adapter would load into other models.
            weight_name: the file's name.

        Raises:
            TypeError, ValueError: if an argument is not as described, or a tensor is not finite.
            OSError: if the file cannot be written.
        """
        if not isinstance(unet_lora_adapter_metadata, Mapping):
            kind = type(unet_lora_adapter_metadata).__name__
            raise TypeError(f"`unet_lora_adapter_metadata` has to be a dict, got {kind}.")
        if not describes_base(base_metadata):
            raise ValueError(f"`base_metadata` has to be made by `lora_base_metadata()`, got {base_metadata!r:.80}.")
        tensors = {f"unet.{name}": tensor for name, tensor in unet_lora_layers.items()} | dict(whole_modules or {})
        adapter = parse_adapter(tensors, unet_lora_adapter_metadata, "unet_lora_layers")
        targets = sorted({layer_of(name) for name in adapter.layers})
        lora = {"unet.r": adapter.rank, "unet.lora_alpha": adapter.alpha, "unet.target_modules": targets}
        metadata = {
            "format": "pt",
            LORA_ADAPTER_METADATA_KEY: json.dumps(lora),
            BASE_METADATA_KEY: json.dumps(base_metadata),
        }
        data = save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, metadata)
        folder = Path(save_directory)
        folder.mkdir(parents=True, exist_ok=True)
        partial = folder / f".{weight_name}.part"
        try:
            partial.write_bytes(data)
            os.replace(partial, folder / weight_name)
        finally:
            partial.unlink(missing_ok=True)

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
        self, adapter_names: str | Sequence[str], adapter_weights: float | Sequence[float | None] | None = None
    ) -> None:
        """Choose the active adapters.

        Args:
            adapter_names: of those that are loaded; none = the model itself.
            adapter_weights: one number for all, or one per adapter; 0 = no effect, 1 and None = as trained; larger
                ones exaggerate and negative ones do the opposite.

        Raises:
            TypeError, ValueError: naming the argument; while adapters are fused.
        """
        self._check_not_fused()
        names = self._check_loaded(adapter_names)
        weights = _check_weights(adapter_weights, len(names))
        self._activate(dict(zip(names, weights, strict=True)))

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
        (scale,) = _check_weights(lora_scale, 1, "lora_scale")
        loaded = self._loaded
        before = loaded.fused
        if not before:
            # Adapters that training added did not come through `load_lora_weights`.
            loaded.weights = {name: loaded.weights.get(name, 1.0) for name in self.get_active_adapters()}
        names = self._check_loaded(list(loaded.weights) if adapter_names is None else adapter_names)
        if not names:
            raise ValueError("`adapter_names` has to be at least one loaded adapter, got none.")
        after = before | {name: loaded.weights.get(name, 1.0) * scale for name in names}
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
                f"`source` has to be an adapter of this base, {ours['model']}, "
                f"got one of {theirs['model']} with other weights."
            )
        if theirs["attributes"] != ours["attributes"]:
            raise ValueError(
                f"`source` has to have its sliders in the order {ours['attributes']}, got {theirs['attributes']}."
            )


def _check_weights(weights: Any, count: int, name: str = "adapter_weights") -> list[float]:
    listed = list(weights) if isinstance(weights, (list, tuple)) else [weights] * count
    if len(listed) != count:
        raise ValueError(f"`{name}` has to be a number or one per adapter ({count}), got {len(listed)} of them.")
    for weight in listed:
        if weight is not None and (isinstance(weight, bool) or not isinstance(weight, (int, float))):
            raise TypeError(f"`{name}` has to be a number or one per adapter, got {type(weight).__name__}.")
        if weight is not None and not math.isfinite(weight):
            raise ValueError(f"`{name}` has to be finite, got {weight}.")
    return [1.0 if weight is None else float(weight) for weight in listed]


def _check_components(components: Any) -> None:
    if components is not None and list(components) != ["unet"]:
        raise ValueError(f"`components` has to be None or ['unet'], got {components!r}.")
