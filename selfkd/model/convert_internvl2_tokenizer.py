"""Converts the tokenizer of InternLM2 (InternVL2-2B, 8B, 26B) to a fast one of transformers with the same ids.

The original is remote code around a SentencePiece model: a text is split at the added tokens of
`tokenizer_config.json`, and each part between them is encoded separately. `added_tokens_decoder` gives some added
tokens the ids of pieces ([UNUSED_TOKEN_141] ...) and the others ids after the last piece; its ids take precedence over
the model file. Layout: OpenGVLab/InternVL, internvl_chat/internvl/model/internlm2 (MIT)."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from google.protobuf.message import DecodeError
from sentencepiece import sentencepiece_model_pb2 as _pb2
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, processors
from transformers import PreTrainedTokenizerFast

from selfkd.errors import InputError

MODEL_FILE, CONFIG_FILE = "tokenizer.model", "tokenizer_config.json"
_SPACE = "▁"  # how SentencePiece writes one
_schema: Any = _pb2  # protobuf generates its classes at import
_ModelProto = _schema.ModelProto
_Piece = _ModelProto.SentencePiece
# special tokens of the original's constructor
_NAMED = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "</s>"}


def is_internlm2(source: Path) -> bool:
    """Whether a checkpoint's tokenizer is InternLM2's, by its SentencePiece model and configuration."""
    if not (source / MODEL_FILE).is_file():
        return False
    return "InternLM2" in str(read_tokenizer_config(source).get("tokenizer_class")) or (
        not (source / "tokenizer.json").is_file() and (source / "tokenization_internlm2.py").is_file()
    )


def read_tokenizer_config(source: Path) -> dict[str, Any]:
    """The content of `tokenizer_config.json`, empty where there is none; raises InputError where it is not JSON."""
    path = source / CONFIG_FILE
    try:
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except ValueError as error:
        raise InputError(f"{path}: not JSON ({error})") from error


def added_tokens(source: Path) -> dict[int, AddedToken]:
    """Added tokens by id: `added_tokens_decoder`, or the older `added_tokens.json`."""
    config = read_tokenizer_config(source)
    found = config.get("added_tokens_decoder")
    flags = ("lstrip", "rstrip", "special")
    if found is not None:
        return {
            int(i): AddedToken(token["content"], normalized=False, **{flag: bool(token.get(flag)) for flag in flags})
            for i, token in sorted(found.items(), key=lambda item: int(item[0]))
        }
    path = source / "added_tokens.json"
    older: dict[str, int] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    special = {str(config.get(name, given)) for name, given in _NAMED.items()}
    special |= set(config.get("additional_special_tokens") or [])
    by_id = sorted((i, content) for content, i in older.items())
    return {i: AddedToken(content, normalized=False, special=content in special) for i, content in by_id}


def internlm2_tokenizer(source: Path, extra: Mapping[str, str]) -> PreTrainedTokenizerFast:
    """The tokenizer; `extra` are further special tokens, each of which must exist. Raises InputError for a model file
    that cannot be converted exactly, and for a token that is missing or has no id."""
    config, added = read_tokenizer_config(source), added_tokens(source)
    if config.get("sp_model_kwargs"):
        raise InputError(f"{source / CONFIG_FILE}: field sp_model_kwargs: is not supported; expected none")
    named = {name: str(_content(config.get(name, given))) for name, given in _NAMED.items()}
    proto = _read_model(source / MODEL_FILE)
    vocabulary = _vocabulary(proto, added, source / CONFIG_FILE)
    for token in (*named.values(), *extra.values()):
        if token not in vocabulary:
            raise InputError(f"source: {source}: the tokenizer has no token {token!r}")
    backend = Tokenizer(
        models.BPE(
            vocab=vocabulary,
            merges=_merges(proto, vocabulary),
            unk_token=named["unk_token"],
            fuse_unk=True,
            byte_fallback=proto.trainer_spec.byte_fallback,
        )
    )
    backend.normalizer, backend.decoder = _normalizer(proto), _decoder(proto)
    own = [p.piece for p in proto.pieces if p.type == _Piece.USER_DEFINED and p.piece in vocabulary]
    named_only = [token for token in named.values() if token not in {t.content for t in added.values()}]
    backend.add_tokens(list(added.values()))
    backend.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in named_only])
    # the model's own symbols are matched in normalized text; a dummy prefix would be put before their names too
    match_normalized = not proto.normalizer_spec.add_dummy_prefix
    backend.add_tokens([AddedToken(piece, normalized=match_normalized) for piece in own])
    first = [named["bos_token"]] if config.get("add_bos_token", True) else []
    last = [named["eos_token"]] if config.get("add_eos_token", False) else []
    backend.post_processor = processors.TemplateProcessing(
        single=[*first, "$A", *last], special_tokens=[(token, vocabulary[token]) for token in {*first, *last}]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        **named,
        extra_special_tokens=dict(extra),
        clean_up_tokenization_spaces=False,
        padding_side=config.get("padding_side", "right"),
    )


def _content(token: Any) -> Any:
    return token["content"] if isinstance(token, dict) else token


def _read_model(path: Path) -> Any:
    proto = _ModelProto()
    try:
        proto.ParseFromString(path.read_bytes())
    except (OSError, DecodeError) as error:
        raise InputError(f"{path}: not a SentencePiece model ({error})") from error
    trainer, normalizer = proto.trainer_spec, proto.normalizer_spec
    is_bpe = trainer.model_type == _schema.TrainerSpec.BPE
    kept = not any(piece.type == _Piece.UNUSED for piece in proto.pieces)
    if not proto.pieces or not is_bpe or trainer.treat_whitespace_as_suffix or not normalizer.escape_whitespaces:
        raise InputError(f"{path}: not a SentencePiece model as InternLM2's (BPE, spaces before words)")
    if not kept:
        raise InputError(
            f"{path}: has pieces of type UNUSED, which SentencePiece splits again; they cannot be converted exactly"
        )
    return proto


def _vocabulary(proto: Any, added: Mapping[int, AddedToken], path: Path) -> dict[str, int]:
    """{piece: id}, with added tokens in place of the pieces that have their ids; replaced pieces are left out."""
    names = {i: piece.piece for i, piece in enumerate(proto.pieces)} | {i: t.content for i, t in added.items()}
    ids: dict[str, int] = {}
    for i, name in names.items():
        if name in ids and i in added and ids[name] in added:
            raise InputError(f"{path}: field added_tokens_decoder: {name!r} has two ids, {ids[name]} and {i}")
        if name not in ids or i in added:
            ids[name] = i
    return ids


def _merges(proto: Any, vocabulary: Mapping[str, int]) -> list[tuple[str, str]]:
    """Every pair of pieces that joins to a piece, by score of the result: the order in which SentencePiece merges."""
    scores = {
        piece.piece: piece.score
        for i, piece in enumerate(proto.pieces)
        if piece.type == _Piece.NORMAL and vocabulary.get(piece.piece) == i
    }
    pairs = [
        (-score, len(piece[:cut]), piece[:cut], piece[cut:])
        for piece, score in scores.items()
        for cut in range(1, len(piece))
        if piece[:cut] in scores and piece[cut:] in scores
    ]
    return [(left, right) for *_, left, right in sorted(pairs, key=lambda pair: pair[:2])]


def _normalizer(proto: Any) -> normalizers.Normalizer:
    spec = proto.normalizer_spec
    steps: list[normalizers.Normalizer] = []
    if spec.precompiled_charsmap:
        steps.append(normalizers.Precompiled(spec.precompiled_charsmap))
    if spec.remove_extra_whitespaces:
        steps += [normalizers.Replace(Regex(r"\A +"), ""), normalizers.Replace(Regex(" {2,}"), " ")]
    steps.append(normalizers.Replace(" ", _SPACE))
    if spec.remove_extra_whitespaces:  # at the end only, a text's own "▁" counts as a space too
        steps.append(normalizers.Replace(Regex(_SPACE + r"+\z"), ""))
    if spec.add_dummy_prefix:
        steps.append(normalizers.Prepend(_SPACE))
    return normalizers.Sequence(steps)


def _decoder(proto: Any) -> decoders.Decoder:
    steps: list[decoders.Decoder] = [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    if proto.normalizer_spec.add_dummy_prefix:
        steps.append(decoders.Strip(" ", 1, 0))
    return decoders.Sequence(steps)
