"""Does attention transfer from the teacher help the student? One more loss term, added to those of the package.

    python experiments/attention_transfer.py --output runs/projector [--weight 10] [--seeds 0 1 2] [--only best]

The term, for each response row: KL(a_T || a_S) of the attention, mean over heads, that the teacher's and the student's
row give to each token of the shared prefix (the image and the chat template around it) and to all later tokens
together, mean over layers. Recipes of `projector_study.py` run with that term in the same folder, where
"best" is then called "best-attention-10"; the difference from the recipe without it is printed last and is in
OUTPUT/attention-WEIGHT-SPLIT.json.
"""

import argparse
from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

from projector_recipes import RECIPES
from projector_study import add_arguments, correct_file, study
from projector_table import Seeds, load_samples, paired, read_correct, samples_from_bits

from selfkd.files import write_json

if TYPE_CHECKING:
    from torch import Tensor


def share_loss(teacher_NP: "Tensor", student_NP: "Tensor") -> "Tensor":
    """sum over rows of KL(teacher || student); a row's attention to all after the P prefix tokens is one more bin."""
    import torch
    from torch.nn import functional as F

    logs = []
    for shares_NP in (teacher_NP, student_NP):
        rest_N1 = 1 - shares_NP.sum(-1, keepdim=True)
        logs.append(torch.cat([shares_NP, rest_N1], dim=-1).clamp(min=1e-6).log())
    return F.kl_div(logs[1], logs[0], log_target=True, reduction="sum")


@cache  # a second patch would wrap the first
def transfer(weight: float) -> None:
    """Patches the package: from here on the loss of a batch with a teacher has the term added."""
    import torch
    from torch import Tensor

    from selfkd.analysis.attention import AttentionSums, attention_rows, recording
    from selfkd.analysis.forward import TokenPositions, response_positions
    from selfkd.losses import LossConfig, LossOutput
    from selfkd.training import self_kd, trainer

    paired_loss, continue_prefix = self_kd.paired_loss, self_kd.continue_prefix

    class ResponseShares(AttentionSums):
        """Keeps, of each layer, what the response rows give to the prefix: (N, P), mean over heads, with gradient."""

        def add(self, layer: int, query_BHSE: Tensor, key_BHTE: Tensor, mask: Tensor | None, **how: Any) -> None:
            rows_BS = self.positions.response_BS
            prefix = key_BHTE.shape[2] - rows_BS.shape[1]
            every_BS = torch.arange(rows_BS.shape[1], device=rows_BS.device).expand_as(rows_BS)
            shares = attention_rows(query_BHSE, key_BHTE, mask, every_BS, **how)
            self.sums[layer] = shares.mean(1)[rows_BS][:, :prefix]

    def loss_with_attention(
        model: Any, batch: Mapping[str, Any], loss_config: LossConfig, teacher: Any = None
    ) -> LossOutput:
        read: list[dict[int, Tensor]] = []  # the teacher's, then the student's

        def continue_and_record(vlm: Any, prefix: Any, inputs: Mapping[str, Tensor], mask_BS: Tensor) -> Tensor:
            rows_BS = response_positions(mask_BS, batch["labels"])
            shares = ResponseShares(TokenPositions(rows_BS, rows_BS, rows_BS))
            read.append(shares.sums)
            with recording(vlm, shares):
                return continue_prefix(vlm, prefix, inputs, mask_BS)

        self_kd.continue_prefix = continue_and_record
        loss = paired_loss(model, batch, loss_config, teacher)
        theirs, ours = read
        distances = [share_loss(theirs[layer], ours[layer]) for layer in sorted(theirs)]
        return loss.plus("attention", weight, torch.stack(distances).mean())

    trainer.paired_loss = loss_with_attention


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    parser.add_argument("--weight", type=float, default=10.0, help="of the term, per response token")
    parser.set_defaults(only=["best", "paper-selfkd"])
    options = parser.parse_args()
    without = {f"{plain}-attention-{options.weight:g}": plain for plain in options.only}
    RECIPES.update({name: RECIPES[plain] for name, plain in without.items()})
    options.only = list(without)
    transfer(options.weight)
    study(options)
    text = load_samples(options.output / "eval-untrained" / options.split, "text")
    correct = read_correct(correct_file(options.output, options.split))[options.split]
    found = {}
    for names in without.items():
        seeds: list[Seeds] = [
            {seed: samples_from_bits(bits, text) for seed, bits in correct.get(name, {}).items()} for name in names
        ]
        if all(seeds):
            found[names[0]] = paired(*seeds)
            print(f"{names[0]} - {names[1]}: {found[names[0]]}")
    write_json(options.output / f"attention-{options.weight:g}-{options.split}.json", found)


if __name__ == "__main__":
    main()
