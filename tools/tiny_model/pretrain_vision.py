"""Warms up the tiny vision tower before it is joined to the LLM, as InternViT was.

Labels for each of the 4 x 4 image tokens: colour, shape, size and position of the object whose centre lies there. Names
are predicted by similarity to the LLM's own word embeddings, so that image tokens lie in the space of words and what
the LLM learns about words holds for them. Trained only through the answers, the tower was still near chance after 900
steps.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm
from transformers import InternVLForConditionalGeneration

from selfkd.toy_world.scenes import COLORS, IMAGE_SIZE, SHAPES, SIZES, render, sample_scene

GRID = 4
CELL = IMAGE_SIZE / GRID
_NAMES = {
    "color": COLORS,
    "shape": SHAPES,
    "size": SIZES,
    "vertical": ("top", "bottom"),
    "horizontal": ("left", "right"),
}
IMAGES_PER_STEP = 64


def fast_bf16() -> torch.autocast:
    """bfloat16 where a CPU multiplies it natively. The Trainer's own autocast covers `model.forward`, and no more."""
    return torch.autocast("cpu", torch.bfloat16, enabled=torch.cpu._is_avx512_bf16_supported())


class LabelledCells(Dataset):
    """(image, names of the object whose centre lies in each cell as indices, -1 for none, its x and y as shares of the
    image)."""

    def __init__(self, count: int, seed: int, image_processor):
        self.count, self.seed, self.image_processor = count, seed, image_processor

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, Tensor]:
        scene = sample_scene("train", self.seed + 7, index)
        names = torch.full((GRID * GRID, len(_NAMES)), -1)
        positions = torch.zeros(GRID * GRID, 2)
        for thing in scene.things:
            cell = int(thing.y // CELL) * GRID + int(thing.x // CELL)
            half = [int(thing.y > IMAGE_SIZE / 2), int(thing.x > IMAGE_SIZE / 2)]
            labels = [COLORS.index(thing.color), SHAPES.index(thing.shape), SIZES.index(thing.size), *half]
            names[cell] = torch.tensor(labels)
            positions[cell] = torch.tensor([thing.x, thing.y]) / IMAGE_SIZE
        pixels = self.image_processor(render(scene), return_tensors="pt")["pixel_values"][0]
        return pixels, names, positions


class CellReader(nn.Module):
    """Read-outs of an image token; dropped after the warm-up, except for the word embeddings, which are the LLM's."""

    def __init__(self, words: nn.Embedding, tokenizer):
        super().__init__()
        self.object_head = nn.Linear(words.embedding_dim, 1)
        self.position_head = nn.Linear(words.embedding_dim, 2)
        self.scale = nn.Parameter(torch.full((len(_NAMES),), 4.0))
        self.words = words
        self.forms = [[self._forms(tokenizer, name) for name in names] for names in _NAMES.values()]

    @staticmethod
    def _forms(tokenizer, name: str) -> list[int]:
        """Ids of the word inside a sentence and at the start of a response; its pieces where it is not one token."""
        ids = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in (f" {name}", name)]
        return [form[0] for form in ids if len(form) == 1] or ids[0]

    def forward(self, cells: Tensor, names: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """(loss, share of the objects whose names are all right)."""
        is_object = names[..., 0] >= 0
        loss = F.binary_cross_entropy_with_logits(self.object_head(cells)[..., 0].float(), is_object.float())
        objects, targets = cells[is_object], names[is_object]
        right = torch.ones(len(objects), dtype=torch.bool)
        for i, forms in enumerate(self.forms):
            words = torch.stack([self.words.weight[ids].mean(0) for ids in forms])
            logits = F.linear(objects.float(), words) * self.scale[i]
            loss = loss + F.cross_entropy(logits, targets[:, i])
            right &= logits.argmax(-1) == targets[:, i]
        return loss + 16 * F.mse_loss(self.position_head(objects).float(), positions[is_object]), right.float().mean()


def pretrain_vision(
    model: InternVLForConditionalGeneration, processor, steps: int, seed: int, learning_rate: float = 1.5e-3
) -> None:
    """Trains vision tower, multimodal projector and the embeddings of the names of `model` in place."""
    words = model.get_input_embeddings()
    assert isinstance(words, nn.Embedding)
    reader = CellReader(words, processor.tokenizer)
    vision = [*model.model.vision_tower.parameters(), *model.model.multi_modal_projector.parameters()]
    parameters = [*vision, *reader.parameters()]
    optimizer = torch.optim.AdamW(parameters, learning_rate, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=steps, pct_start=0.1)
    data = LabelledCells(steps * IMAGES_PER_STEP, seed, processor.image_processor)
    loader = DataLoader(data, IMAGES_PER_STEP, num_workers=1)
    progress = tqdm(loader, "vision tower", mininterval=5)
    for pixels, names, positions in progress:
        with fast_bf16():
            cells = model.get_image_features(pixels, return_dict=True).pooler_output
            loss, right = reader(cells, names, positions)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        progress.set_postfix(loss=f"{loss.item():.3f}", right=f"{right.item():.2f}", refresh=False)
