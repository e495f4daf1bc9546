"""Adapters in the layers of a UNet: put in, weighed, blended, fused and taken out again, bit for bit.

This file travels with every model on the Hub, so it imports nothing of the package but its neighbours.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from diffusers.hooks.group_offloading import _maybe_remove_and_reapply_group_offloading
from diffusers.loaders.lora_base import LoraBaseMixin

from .adapter_file_diffretouch import Adapter
from .adapter_look_diffretouch import AdapterLook, blended


@dataclass(frozen=True)
class AdapterWeight:
    """How much an adapter counts: in the attention blocks of the UNet that `blocks` names, and everywhere else."""

    elsewhere: float = 1.0
    blocks: Mapping[str, float] = field(default_factory=dict)  # "down_blocks.1.attentions.0" -> weight

    def times(self, scale: float) -> AdapterWeight:
        return AdapterWeight(self.elsewhere * scale, {block: w * scale for block, w in self.blocks.items()})

    def of(self, layer: str) -> float:
        """The weight in one layer of the UNet; what stands beside an attention block goes with it, as in diffusers."""
        for block, weight in self.blocks.items():
            if layer.startswith(f"{block}."):
                return weight
        parts = layer.split(".")  # "down_blocks.1.resnets.0.conv1"
        beside = f"{parts[0]}.{parts[1]}.attentions.{parts[3]}" if len(parts) > 3 else ""
        return self.blocks.get(beside, self.elsewhere)


@dataclass
class _Loaded:
    """What peft does not keep of the adapters of a UNet."""

    whole: dict[str, dict[str, torch.Tensor]] = field(default_factory=dict)  # adapter -> name -> tensor
    looks: dict[str, dict[str, torch.Tensor]] = field(default_factory=dict)  # adapter -> name -> tensor
    weights: dict[str, AdapterWeight] = field(default_factory=dict)  # of the active adapters
    enabled: bool = True
    fused: dict[str, AdapterWeight] = field(default_factory=dict)  # adapter -> the weight it is fused at
    replaced: dict[str, torch.Tensor] = field(default_factory=dict)  # as they were before adapters held them whole
    unfused: dict[str, torch.Tensor] = field(default_factory=dict)  # as they were before LoRA layers were fused


class AdapterLayersMixin(LoraBaseMixin):
    """How `DiffRetouchLoraLoaderMixin` does what it offers."""

    @property
    def _bare_unet(self) -> Any:
        """The UNet out of the wrapper of torch.compile."""
        return getattr(self.unet, "_orig_mod", self.unet)

    @property
    def _loaded(self) -> _Loaded:
        """Kept on the UNet, beside the adapters: pipelines that share it share them."""
        return self._bare_unet.__dict__.setdefault("_diffretouch_adapters", _Loaded())

    def _adapter_names(self) -> list[str]:
        return list(getattr(self._bare_unet, "peft_config", None) or {})

    def _tensors(self) -> dict[str, torch.Tensor]:
        """The weights themselves, as they are now, by the names they have without adapters."""
        parts = {"unet": self._bare_unet, "grid_head": getattr(self.grid_head, "_orig_mod", self.grid_head)}
        return {
            f"{part}.{name.replace('.base_layer.', '.')}": tensor
            for part, module in parts.items()
            for name, tensor in module.state_dict().items()
            if ".lora_" not in name
        }

    @contextmanager
    def _without_offloading(self) -> Iterator[None]:
        """Weights that offloading keeps elsewhere are at hand in this block."""
        of_models, in_sequence, of_groups = self._optionally_disable_offloading(self)
        device = getattr(self, "_offload_device", None)
        try:
            yield
        finally:
            if of_models:
                self.enable_model_cpu_offload(device=device)
            elif in_sequence:
                self.enable_sequential_cpu_offload(device=device)
            elif of_groups:
                _maybe_remove_and_reapply_group_offloading(self._bare_unet)

    def _inject(self, name: str, adapter: Adapter, low_cpu_mem_usage: bool) -> None:
        # Copies, because peft makes these very tensors the layers' weights.
        layers = {key: tensor.clone() for key, tensor in sorted(adapter.layers.items())}
        with warnings.catch_warnings():
            # peft takes a second adapter for an accident.
            warnings.simplefilter("ignore")
            self._bare_unet.load_lora_adapter(
                layers,
                prefix=None,
                adapter_name=name,
                metadata={"r": adapter.rank, "lora_alpha": adapter.alpha, "target_modules": adapter.targets},
                low_cpu_mem_usage=low_cpu_mem_usage,
            )
        for layer in self._lora_layers(name).values():
            for part in (layer.lora_A[name], layer.lora_B[name]):
                # peft takes the type that the layer's weights are stored in, which may be too coarse to work in.
                part.to(self._bare_unet.dtype)
        self._fill(name, adapter)
        # Not with `set_adapters`: it would replace the scale that `enable_lora_hotswap` made a tensor.
        self._bare_unet.set_adapter(name)
        self._bare_unet.enable_lora()
        self._loaded.weights, self._loaded.enabled = {name: AdapterWeight()}, True

    def _swap(self, name: str, adapter: Adapter) -> None:
        """Not by diffusers' own, which forgets the weight set before, and clears "style2" too as it swaps "style"."""
        layers = self._lora_layers(name)
        for key in adapter.targets:
            if key not in layers:
                raise ValueError(f"The adapter has to tune layers that {name!r} tunes to replace it, got {key}.")
            room = layers[key].lora_A[name].weight.shape[0]
            if room < adapter.rank:
                raise ValueError(
                    f"The adapter has to be of rank {room} at most to replace {name!r}, got {adapter.rank}: call "
                    "`enable_lora_hotswap(target_rank=...)` before the first adapter is loaded."
                )
        settings = self._bare_unet.peft_config[name]
        settings.r, settings.lora_alpha = adapter.rank, adapter.alpha
        weight = self._loaded.weights.get(name, AdapterWeight())
        self._fill(name, adapter)
        for key, layer in layers.items():
            scaling = weight.of(key) * adapter.alpha / adapter.rank
            layer.r[name], layer.lora_alpha[name] = adapter.rank, adapter.alpha
            if isinstance(layer.scaling[name], torch.Tensor):
                layer.scaling[name].fill_(scaling)
            else:
                layer.scaling[name] = scaling

    def _fill(self, name: str, adapter: Adapter) -> None:
        """Write an adapter's tensors into its layers; rows and columns that it lacks are 0, which changes nothing."""
        for key, layer in self._lora_layers(name).items():
            for part in ("lora_A", "lora_B"):
                weight = getattr(layer, part)[name].weight.data
                new = adapter.layers.get(f"{key}.{part}.weight", weight[:0])
                weight.zero_()
                weight[tuple(slice(size) for size in new.shape)] = new.to(weight)

    def _lora_layers(self, adapter_name: str | None = None) -> dict[str, Any]:
        """The UNet's layers with LoRA, or with that of one adapter, by their names."""
        layers = {name: module for name, module in self._bare_unet.named_modules() if hasattr(module, "lora_A")}
        return {key: layer for key, layer in layers.items() if adapter_name in (None, *layer.lora_A)}

    def _activate(self, weights: dict[str, AdapterWeight]) -> None:
        self._loaded.weights = weights
        with self._without_offloading():
            self._weigh(weights)
            self._blend()

    def _weigh(self, weights: dict[str, AdapterWeight]) -> None:
        self._bare_unet.set_adapters(list(weights), [weight.elsewhere for weight in weights.values()])
        # Not by `set_adapters` too: its block weights fail on layers outside of blocks, such as `conv_in`.
        for name, weight in weights.items():
            for key, layer in self._lora_layers(name).items() if weight.blocks else ():
                layer.set_scale(name, weight.of(key))

    @contextmanager
    def _at_lora_scale(self, scale: float) -> Iterator[None]:
        """In this block the active adapters count `scale` times as much; those that are fused stay as they are."""
        layers = [] if scale == 1 or self._loaded.fused else list(self._lora_layers().values())
        if not layers:
            yield
            return
        kept = [dict(layer.scaling) for layer in layers]
        try:
            for layer in layers:
                layer.scaling.update({name: value * scale for name, value in layer.scaling.items()})
            with self._without_offloading():
                self._blend(scale)
            yield
        finally:
            for layer, scaling in zip(layers, kept, strict=True):
                layer.scaling.update(scaling)
            with self._without_offloading():
                self._blend()

    def _enable(self, enabled: bool) -> None:
        self._check_not_fused()
        self._loaded.enabled = enabled
        (self._bare_unet.enable_lora if enabled else self._bare_unet.disable_lora)()
        with self._without_offloading():
            self._blend()

    @property
    def _in_effect(self) -> dict[str, AdapterWeight]:
        """The adapters that change pictures now, with their weights."""
        loaded = self._loaded
        return loaded.fused or (loaded.weights if loaded.enabled else {})

    def keep_look(self, name: str, look: dict[str, torch.Tensor]) -> None:
        """Give the adapter `name` a look, by `LOOK_TENSORS`, or take it away where there are no tensors."""
        self._loaded.looks.pop(name, None)
        if look:
            self._loaded.looks[name] = look

    def look_in_effect(self, scale: float = 1.0) -> AdapterLook | None:
        """The looks of the adapters in effect, at `scale` times their weights, blended; None if none has one."""
        looks = self._loaded.looks
        return blended((scale * w.elsewhere, looks[name]) for name, w in self._in_effect.items() if name in looks)

    def _blend(self, scale: float = 1.0) -> None:
        """Make what adapters hold whole base + scale sum_i w_i (tuned_i - base), over the adapters in effect."""
        loaded, in_effect = self._loaded, self._in_effect
        tensors = self._tensors()
        for name in {name for whole in loaded.whole.values() for name in whole} - loaded.replaced.keys():
            loaded.replaced[name] = tensors[name].to("cpu", copy=True)
        for name, base in loaded.replaced.items():
            tuned = [
                (weight.elsewhere * scale, loaded.whole[adapter][name])
                for adapter, weight in in_effect.items()
                if name in loaded.whole.get(adapter, {})
            ]
            # In this form no adapter gives the base, and one at weight 1 the tuned part, bit for bit.
            blend = base.float() * (1 - sum(weight for weight, _ in tuned))
            tensors[name].copy_(sum((weight * part.float() for weight, part in tuned), blend))

    def _fuse(self, weights: dict[str, AdapterWeight], safe: bool) -> None:
        """Have exactly these adapters fused, at these weights."""
        loaded, unet, tensors, layers = self._loaded, self._bare_unet, self._tensors(), self._lora_layers()
        for layer in layers.values():
            layer.merged_adapters.clear()
        for name, tensor in loaded.unfused.items():
            tensors[name].copy_(tensor)
        loaded.unfused, loaded.fused = {}, weights
        self._weigh(weights or loaded.weights)
        self._blend()
        if weights:
            # Disabled layers would take out of the weights what was fused into them.
            unet.enable_lora()
            loaded.enabled = True
            names = [f"unet.{name}.weight" for name in layers]
            loaded.unfused = {name: tensors[name].to("cpu", copy=True) for name in names}
            unet.fuse_lora(safe_fusing=safe, adapter_names=list(weights))

    def _check_not_fused(self) -> None:
        if self._loaded.fused:
            raise ValueError(
                "Adapters have to be unfused first with `unfuse_lora()`, or kept for good by `unload_lora_weights()`, "
                f"got {sorted(self._loaded.fused)} fused."
            )
