"""Models of images and text together."""

from __future__ import annotations

import math
from typing import Any

import torch

from benchmarks.published import data
from benchmarks.published.architecture import (
    Architecture,
    Batch,
    SubConfig,
    from_config,
)
from benchmarks.published.text import SMALL
from benchmarks.published.vision import SMALL_VIT

TEXT_TOWER: dict[str, Any] = {
    **SMALL,
    "num_hidden_layers": 2,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
IMAGE_TOWER: dict[str, Any] = {**SMALL_VIT, "num_hidden_layers": 2}
END = 2
PAIR_CHANCE = 8 * -(math.log(1 / 8) / 8 + math.log(7 / 8) * 7 / 8)
"""Loss of "one pair in 8 belongs together", summed over 8 binary decisions."""


def _contrastive(seed: int, step: int) -> Batch:
    """Return pairs for a contrastive loss that the model computes itself."""
    return {**data.paired(seed, step, end_token=END), "return_loss": True}


def _towers(
    name: str,
    prefix: str,
    *,
    text: dict[str, Any] | None = None,
    chance: float = math.log(data.BATCH_SIZE),
    **options: Any,
) -> Architecture:
    """Return a dual encoder with its contrastive loss."""
    return Architecture(
        name,
        "multimodal",
        from_config(
            f"{prefix}Model",
            f"{prefix}Config",
            text_config={**TEXT_TOWER, **(text or {})},
            vision_config=dict(IMAGE_TOWER),
            **options,
        ),
        _contrastive,
        chance=chance,
    )


def _questions(seed: int, step: int) -> Batch:
    """Return an image and a text with soft targets over 8 answers."""
    batch = data.paired(seed, step)
    return {**batch, "labels": torch.eye(data.BATCH_SIZE)}


def _captions(seed: int, step: int) -> Batch:
    """Return an image and its caption as a causal language task."""
    batch = data.paired(seed, step)
    return {**batch, "labels": batch["input_ids"].clone()}


IMAGE_TOKEN = 3
NUM_PATCHES = (data.IMAGE_SIZE // 8) ** 2


def _llava_batch(seed: int, step: int) -> Batch:
    """Return captions that start with one placeholder token a patch."""
    batch = data.paired(seed, step)
    text = batch["input_ids"]
    image = torch.full((len(text), NUM_PATCHES), IMAGE_TOKEN)
    tokens = torch.cat([image, text], dim=1)
    return {
        "input_ids": tokens,
        "attention_mask": torch.ones_like(tokens),
        "pixel_values": batch["pixel_values"],
        "labels": tokens.masked_fill(tokens == IMAGE_TOKEN, -100),
    }


def _visual_batch(seed: int, step: int) -> Batch:
    """Return a caption and flattened image patches as visual features."""
    batch = data.paired(seed, step)
    images = batch["pixel_values"]
    patches = images.unfold(2, 8, 8).unfold(3, 8, 8).permute(0, 2, 3, 1, 4, 5)
    visual = patches.reshape(len(images), NUM_PATCHES, -1).contiguous()
    return {
        "input_ids": batch["input_ids"],
        "attention_mask": batch["attention_mask"],
        "visual_embeds": visual,
        "visual_attention_mask": torch.ones(visual.shape[:2], dtype=torch.long),
        "visual_token_type_ids": torch.ones(visual.shape[:2], dtype=torch.long),
        "labels": torch.eye(data.BATCH_SIZE),
    }


MULTIMODAL: tuple[Architecture, ...] = (
    _towers("clip", "CLIP", projection_dim=32),
    _towers("siglip", "Siglip", text={"projection_size": 32}, chance=PAIR_CHANCE),
    _towers("metaclip-2", "MetaClip2", projection_dim=32),
    _towers("altclip", "AltCLIP", text={"project_dim": 32}, projection_dim=32),
    _towers("chinese-clip", "ChineseCLIP", projection_dim=32),
    _towers("blip", "Blip", text={"encoder_hidden_size": 32}, projection_dim=32),
    Architecture(
        "vilt",
        "multimodal",
        from_config(
            "ViltForQuestionAnswering",
            "ViltConfig",
            **{**SMALL, **SMALL_VIT},
            num_labels=data.BATCH_SIZE,
            max_image_length=-1,
        ),
        _questions,
        chance=PAIR_CHANCE,
    ),
    Architecture(
        "visual-bert",
        "multimodal",
        from_config(
            "VisualBertForQuestionAnswering",
            "VisualBertConfig",
            **SMALL,
            visual_embedding_dim=192,
            num_labels=data.BATCH_SIZE,
        ),
        _visual_batch,
        chance=math.log(data.BATCH_SIZE),
    ),
    Architecture(
        "git",
        "multimodal",
        from_config(
            "GitForCausalLM",
            "GitConfig",
            **TEXT_TOWER,
            vision_config=dict(IMAGE_TOWER),
        ),
        _captions,
    ),
    Architecture(
        "llava",
        "multimodal",
        from_config(
            "LlavaForConditionalGeneration",
            "LlavaConfig",
            text_config=SubConfig(
                "LlamaConfig", {**TEXT_TOWER, "num_key_value_heads": 2}
            ),
            vision_config=SubConfig("CLIPVisionConfig", IMAGE_TOWER),
            image_token_id=IMAGE_TOKEN,
        ),
        _llava_batch,
    ),
)
