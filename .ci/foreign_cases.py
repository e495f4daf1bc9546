"""Our pipeline and head, as diffusers' common tests want them described; run by foreign_suites.py.

The test classes are composed of what the checkout has: its mixins hold the tests. Old and new checkouts ask for the
same things under two names, and both are given.
"""

from __future__ import annotations

import importlib
import unittest
from typing import Any

import torch
from tiny import HEAD, tiny_components

from diffretouch import ATTRIBUTES, AffineGridHead, DiffRetouchPipeline, FixedLatentCodec

DEVICE = importlib.import_module("tests.testing_utils").torch_device


def mixins(module: str, *names: str) -> tuple[type, ...]:
    """Those of these classes that the checkout has."""
    try:
        found = importlib.import_module(f"tests.{module}")
    except ModuleNotFoundError as error:
        if error.name is None or not error.name.startswith("tests"):
            raise  # something that the checkout's tests need is not installed
        return ()
    return tuple(getattr(found, name) for name in names if hasattr(found, name))


class OurPipeline:
    pipeline_class = DiffRetouchPipeline
    params = required_input_params_in_call_signature = frozenset({"image", "strength", *ATTRIBUTES})
    batch_params = batch_input_params = frozenset({"image"})
    # `num_images_per_prompt` is `num_variants` here.
    optional_input_params = required_optional_params = frozenset(
        {"num_inference_steps", "generator", "latents", "output_type", "return_dict"}
    )
    image_params = frozenset({"image"})
    image_latents_params: frozenset[str] = frozenset()  # photos are applied to, so latents cannot stand for them
    callback_cfg_params: frozenset[str] = frozenset()
    output_shape = (3, 24, 32)
    output_type = "pt"
    test_attention_slicing = True
    test_xformers_attention = False
    test_layerwise_casting = True
    test_group_offloading = True

    def get_dummy_components(self, **_: Any) -> dict[str, Any]:
        return tiny_components()

    def get_dummy_inputs(self, device: Any = DEVICE, seed: int = 0) -> dict[str, Any]:
        photo = torch.rand((1, 3, 24, 32), generator=torch.Generator().manual_seed(1))
        return {
            "image": photo.to(device),
            "temperature": 0.5,
            "num_inference_steps": 2,
            "generator": torch.Generator().manual_seed(seed),
            "output_type": self.output_type,
        }


# One class for each family: a family that needs an accelerator would have all others of its class skipped.
CONFIG = mixins("pipelines.testing_utils", "BasePipelineTesterConfig")
PIPELINE = mixins("pipelines.testing_utils", "PipelineTesterMixin")
MEMORY = mixins("pipelines.testing_utils", "MemoryTesterMixin")
LORA = mixins("pipelines.testing_utils", "LoraTesterMixin", "UNetLoraTesterMixin")
LORA_MEMORY = mixins("pipelines.testing_utils", "LoraMemoryTesterMixin")
OLD_PIPELINE = mixins(
    "pipelines.test_pipelines_common",
    *("PipelineLatentTesterMixin", "PipelineKarrasSchedulerTesterMixin", "PipelineTesterMixin"),
)

if PIPELINE:

    class TestPipeline(OurPipeline, *PIPELINE, *CONFIG):  # type: ignore[misc]
        pass


if MEMORY:

    class TestMemory(OurPipeline, *MEMORY, *CONFIG):  # type: ignore[misc]
        pass


if LORA:

    class TestLora(OurPipeline, *LORA, *CONFIG):  # type: ignore[misc]
        pass


if LORA_MEMORY:

    class TestLoraMemory(OurPipeline, *LORA_MEMORY, *CONFIG):  # type: ignore[misc]
        pass


if OLD_PIPELINE:

    class TestOldPipeline(OurPipeline, *OLD_PIPELINE, unittest.TestCase):  # type: ignore[misc]
        output_type = "np"


class OurHead:
    model_class = AffineGridHead
    main_input_name = "features"
    different_shapes_for_compilation = [(16, 16), (24, 32)]
    output_shape = (12, 4, 8, 8)
    torch_dtype = torch.float32

    def get_init_dict(self) -> dict[str, Any]:
        return dict(HEAD)

    def get_dummy_inputs(self, height: int = 16, width: int = 16) -> dict[str, Any]:
        features = torch.randn((2, 4, height, width), generator=torch.Generator().manual_seed(0))
        return {"features": features.to(DEVICE)}


class OurCodec:
    model_class = FixedLatentCodec
    main_input_name = "sample"
    different_shapes_for_compilation = [(16, 16), (24, 32)]
    output_shape = (3, 16, 16)
    torch_dtype = torch.float32

    def get_init_dict(self) -> dict[str, Any]:
        return {}

    def get_dummy_inputs(self, height: int = 16, width: int = 16) -> dict[str, Any]:
        pictures = torch.rand((2, 3, height, width), generator=torch.Generator().manual_seed(0)) * 2 - 1
        return {"sample": pictures.to(DEVICE)}


MODEL_CONFIG = mixins("models.testing_utils", "BaseModelTesterConfig")
for _kind in ("Model", "Memory", "Training", "TorchCompile"):
    for _ours, _name in ((OurHead, "Head"), (OurCodec, "Codec")):
        if _mixin := mixins("models.testing_utils", f"{_kind}TesterMixin"):
            globals()[f"Test{_name}{_kind}"] = type(f"Test{_name}{_kind}", (_ours, *_mixin, *MODEL_CONFIG), {})
