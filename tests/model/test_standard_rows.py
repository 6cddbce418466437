"""`forward` and `generate` with the interface of transformers, for rows of images, clips and text of every backbone.

The reference is transformers' own code: a copy of the VLM gets the audio embeddings as further rows of its embedding,
so a clip is a sequence of ordinary tokens there."""

from copy import deepcopy

import pytest
import torch
from vlm_backbones import BACKBONES, IMAGE, PAD, VISION_END, VISION_START, VOCABULARY, joined, padded_left, padded_right

from selfkd.model.prefix_cache import continue_prefix, encode_prefix

CLIP = VOCABULARY  # the audio token, beyond the VLM's vocabulary
SETTINGS = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": None, "pad_token_id": PAD}
SETTINGS |= {"suppress_tokens": [IMAGE]}  # which would need an image
TOLERANCE = {"rtol": 1e-4, "atol": 1e-5}
PADDED = {"left": padded_left, "right": padded_right}


@pytest.fixture(scope="module", params=[(name, projector) for name in BACKBONES for projector in ("stack", "ctc")])
def joined_model(request):
    """(OmniModel, image inputs of two images, image tokens of each, inputs of three clips of unequal length)."""
    model, image_inputs, tokens = joined(*request.param)
    features = torch.randn(3, 80, 60)
    mask = (torch.arange(60) < torch.tensor([[60], [24], [41]])).long()
    return model, image_inputs, tokens, {"input_features": features * mask[:, None], "feature_attention_mask": mask}


def image(count):
    return [VISION_START, *[IMAGE] * count, VISION_END]


def conversation_rows(tokens):
    """Clips before and after an image, two in one row, none in the last; both images are in different rows."""
    return [
        [5, CLIP, 6, *image(tokens[0]), 10, 11, CLIP, 12],
        [7, *image(tokens[1]), 13, CLIP, 14, 15, 16, 17, 18, 19],
        [20, 21, 22],
    ]


def inputs_of(model, rows, side, image_inputs, clips):
    ids, mask = PADDED[side](rows)
    types = {"mm_token_type_ids": (ids == IMAGE).int()} if "image_grid_thw" in image_inputs else {}
    return {"input_ids": ids, "attention_mask": mask, **types, **image_inputs, **clips}


def clips_as_tokens(model, clips):
    """(a copy of the VLM whose embedding holds the audio embeddings, the ids of those of each clip)."""
    with torch.no_grad():
        embeddings = model.get_audio_features(**clips).pooler_output
        vlm = deepcopy(model.vlm)
        table = vlm.resize_token_embeddings(VOCABULARY + sum(map(len, embeddings)), mean_resizing=False)
        table.weight[VOCABULARY:] = torch.cat(embeddings)
    vlm.set_output_embeddings(deepcopy(model.vlm.get_output_embeddings()))  # they are no response
    vlm.config.get_text_config().vocab_size = VOCABULARY
    ids = torch.arange(VOCABULARY, len(table.weight)).split([len(clip) for clip in embeddings])
    return vlm, [part.tolist() for part in ids]


def with_ids(rows, clip_ids):
    """The rows with each clip as its ids."""
    left = iter(clip_ids)
    return [[id_ for token in row for id_ in (next(left) if token == CLIP else [token])] for row in rows]


def text_labels(inputs):
    """Labels of the text; that of a row's first token, which padding would predict, is left out."""
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    known = mask.bool() & torch.nn.functional.pad(mask[:, :-1], (1, 0)).bool()
    return ids.masked_fill((ids >= VOCABULARY) | ~known, -100)


@pytest.mark.parametrize("side", PADDED)
def test_logits_are_those_of_transformers_with_the_audio_embeddings_as_tokens(joined_model, side):
    model, image_inputs, tokens, clips = joined_model
    rows = conversation_rows(tokens)
    vlm, clip_ids = clips_as_tokens(model, clips)
    assert all(len(ids) > 1 for ids in clip_ids)
    plain = inputs_of(model, with_ids(rows, clip_ids), side, image_inputs, {})
    labels = text_labels(plain)
    with torch.no_grad():
        expected = vlm(**plain).logits
        inputs = inputs_of(model, rows, side, image_inputs, clips)
        outputs = model(**inputs, labels=text_labels(inputs))
    shown = plain["attention_mask"].bool()
    assert outputs.logits.shape == expected.shape
    torch.testing.assert_close(outputs.logits[shown], expected[shown], **TOLERANCE)
    nll = torch.nn.functional.cross_entropy(expected[:, :-1].flatten(0, 1).double(), labels[:, 1:].flatten())
    assert outputs.loss.dtype == torch.float32
    torch.testing.assert_close(outputs.loss.double(), nll, **TOLERANCE)


@pytest.mark.parametrize("side", PADDED)
@pytest.mark.parametrize("search", [{}, {"num_beams": 3, "num_return_sequences": 2}, {"use_cache": False}])
def test_generated_tokens_are_those_of_transformers_with_the_audio_embeddings_as_tokens(joined_model, side, search):
    """Greedy, with beams, and without a cache; `input_ids` as they were given come first."""
    model, image_inputs, tokens, clips = joined_model
    rows = conversation_rows(tokens)
    vlm, clip_ids = clips_as_tokens(model, clips)
    plain = inputs_of(model, with_ids(rows, clip_ids), "left", image_inputs, {})
    expected = vlm.generate(**plain, **SETTINGS, **search)[:, plain["input_ids"].shape[1] :]
    inputs = inputs_of(model, rows, side, image_inputs, clips)
    found = model.generate(**inputs, **SETTINGS, **search)
    width = inputs["input_ids"].shape[1]
    assert found[:, width:].tolist() == expected.tolist()
    repeats = search.get("num_return_sequences", 1)
    assert torch.equal(found[:, :width], inputs["input_ids"].repeat_interleave(repeats, 0))


@pytest.mark.parametrize("side", PADDED)
def test_standard_rows_equal_the_shared_prefix(joined_model, side):
    """The same logits, and the same greedy tokens: in training and evaluation one image is encoded once."""
    model, image_inputs, tokens, clips = joined_model
    clips = {name: values[:2] for name, values in clips.items()}
    prefixes = [[5, 6, *image(n), *range(10, 10 + 3 * i)] for i, n in enumerate(tokens)]
    suffixes = [[CLIP, 20, 21, 22], [CLIP, 30]]
    ids, mask = padded_left(prefixes)
    suffix_ids, suffix_mask = padded_right(suffixes)
    rows = [prefix + suffix for prefix, suffix in zip(prefixes, suffixes, strict=True)]
    inputs = inputs_of(model, rows, side, image_inputs, clips)
    with torch.no_grad():
        prefix = encode_prefix(model.vlm, ids, mask, **image_inputs)
        merged, merged_mask, _ = model.merge_audio_embeddings(suffix_ids, suffix_mask, clips)
        shared = model.get_output_embeddings()(continue_prefix(model.vlm, prefix, merged, merged_mask))
        logits = model(**inputs).logits
        lengths = [len(clip) - 1 for clip in model.get_audio_features(**clips).pooler_output]
    for row, (tail, length) in enumerate(zip(shared, merged_mask.sum(-1).tolist(), strict=True)):
        missing = logits.shape[1] - len(rows[row]) - lengths[row]
        own = logits[row, missing:] if side == "left" else logits[row, : logits.shape[1] - missing]
        torch.testing.assert_close(own[-length:], tail[:length], **TOLERANCE)
    responses = model.generate_responses(
        ids, mask, torch.arange(2), suffix_ids, suffix_mask, image_inputs, clips, **SETTINGS
    )
    assert model.generate(**inputs, **SETTINGS)[:, inputs["input_ids"].shape[1] :].tolist() == responses.tolist()
