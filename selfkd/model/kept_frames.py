"""Frames of a speech encoder that does not train, kept in memory within `keep_frames`: on a CPU the encoder costs most
of a step, and a clip has the same frames in every epoch, and in every run of a process that has the same encoder.

Legend: F mel bins, M mel frames, S encoder frames, D width.
"""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

KEPT_BYTES = 2**30
Key = tuple[str, ...]


class KeptFrames:
    """{key: frames (S, D)}; the least recently used leave when there are more than `limit` bytes."""

    def __init__(self, limit: int = KEPT_BYTES):
        self.free_bytes = limit
        self.frames: dict[Key, Tensor] = {}
        self._encoders: dict[tuple[int, int], str] = {}

    def get(self, key: Key, compute: Callable[[], Tensor]) -> Tensor:
        frames_SD = self.frames.pop(key, None)
        if frames_SD is None:
            frames_SD = compute()
            self.free_bytes -= frames_SD.nbytes
        self.frames[key] = frames_SD  # now the last one to leave
        while self.free_bytes < 0:
            self.free_bytes += self.frames.pop(next(iter(self.frames))).nbytes
        return frames_SD

    def encoder_key(self, encoder: nn.Module) -> str:
        """A hash of its weights, computed again when they have changed."""
        parameters = list(encoder.parameters())
        version = id(encoder), sum(p._version for p in parameters)
        if version not in self._encoders:
            self._encoders[version] = _hash(*(p.detach() for p in parameters))
        return self._encoders[version]


_active: KeptFrames | None = None


@contextmanager
def keep_frames(limit: int = KEPT_BYTES) -> Iterator[KeptFrames]:
    """Keeps frames until the outermost of these contexts ends."""
    global _active
    if _active is not None:
        yield _active
        return
    _active = KeptFrames(limit)
    try:
        yield _active
    finally:
        _active = None


def kept_frames(encoder: nn.Module, mel_FM: Tensor, padded: bool, compute: Callable[[], Tensor]) -> Tensor | None:
    """The frames (S, D) of one clip, from `compute` only where they are not known. None where none are kept: without
    `keep_frames`, where the encoder trains, and on a GPU, where it costs little."""
    if _active is None or mel_FM.device.type != "cpu":
        return None
    if encoder.training or torch.is_autocast_enabled("cpu"):
        return None
    if torch.is_grad_enabled() and any(p.requires_grad for p in encoder.parameters()):
        return None
    key = _active.encoder_key(encoder), str(padded), _hash(mel_FM)
    with torch.no_grad():
        return _active.get(key, compute)


def _hash(*tensors: Tensor) -> str:
    found = hashlib.blake2b(digest_size=16)
    for tensor in tensors:
        found.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
        found.update(tensor.contiguous().view(torch.uint8).numpy().data)
    return found.hexdigest()
