"""Teaches the embedded vision tower to see before it is joined to the LLM, as InternViT was.

For each of the 4 x 4 image tokens: which colour, shape and size has the thing whose centre lies there, and where in the
cell. Trained through the LLM's words alone, the tower was still near chance after 900 steps (12 minutes).
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm
from transformers import InternVLForConditionalGeneration

from selfkd.data.shapes import COLORS, PICTURE_SIZE, SHAPES, SIZES, draw_scene, render

GRID = 4
CELL = PICTURE_SIZE / GRID
_NAMES = {"color": COLORS, "shape": SHAPES, "size": SIZES}
PICTURES_PER_STEP = 64


class LabelledCells(Dataset):
    """(picture, per cell: colour, shape, size as indices, -1 where no centre lies; x, y in cells from its corner)."""

    def __init__(self, count: int, seed: int, image_processor):
        self.count, self.seed, self.image_processor = count, seed, image_processor

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, Tensor]:
        scene = draw_scene("train", self.seed + 7, index)
        names = torch.full((GRID * GRID, 3), -1)
        places = torch.zeros(GRID * GRID, 2)
        for thing in scene.things:
            cell = int(thing.y // CELL) * GRID + int(thing.x // CELL)
            names[cell] = torch.tensor([known.index(getattr(thing, kind)) for kind, known in _NAMES.items()])
            places[cell] = torch.tensor([thing.x % CELL, thing.y % CELL]) / CELL
        pixels = self.image_processor(render(scene), return_tensors="pt")["pixel_values"][0]
        return pixels, names, places


class CellReader(nn.Module):
    """Linear read-outs of an image token; thrown away after the warm-up."""

    def __init__(self, width: int):
        super().__init__()
        self.there = nn.Linear(width, 1)
        self.names = nn.ModuleList(nn.Linear(width, len(known)) for known in _NAMES.values())
        self.place = nn.Linear(width, 2)

    def forward(self, cells: Tensor, names: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
        """(loss, share of the things whose colour, shape and size are all right)."""
        is_there = names[..., 0] >= 0
        loss = F.binary_cross_entropy_with_logits(self.there(cells)[..., 0].float(), is_there.float())
        seen, wanted = cells[is_there], names[is_there]
        right = torch.ones(len(seen), dtype=torch.bool)
        for i, head in enumerate(self.names):
            logits = head(seen).float()
            loss = loss + F.cross_entropy(logits, wanted[:, i])
            right &= logits.argmax(-1) == wanted[:, i]
        return loss + 4 * F.mse_loss(self.place(seen).float(), places[is_there]), right.float().mean()


def pretrain_vision(
    model: InternVLForConditionalGeneration, image_processor, steps: int, seed: int, learning_rate: float = 1.5e-3
) -> None:
    """Trains vision tower and multimodal projector of `model` in place."""
    width = model.config.text_config.hidden_size
    reader = CellReader(width)
    seeing = [*model.model.vision_tower.parameters(), *model.model.multi_modal_projector.parameters()]
    parameters = [*seeing, *reader.parameters()]
    optimizer = torch.optim.AdamW(parameters, learning_rate, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=steps, pct_start=0.1)
    data = LabelledCells(steps * PICTURES_PER_STEP, seed, image_processor)
    loader = DataLoader(data, PICTURES_PER_STEP, num_workers=1)
    progress = tqdm(loader, "vision tower", mininterval=5)
    for pixels, names, places in progress:
        with torch.autocast("cpu", torch.bfloat16, enabled=torch.cpu._is_avx512_bf16_supported()):
            cells = model.get_image_features(pixels, return_dict=True).pooler_output
            loss, right = reader(cells, names, places)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        progress.set_postfix(loss=f"{loss.item():.3f}", right=f"{right.item():.2f}", refresh=False)
