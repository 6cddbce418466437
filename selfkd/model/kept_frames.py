# SPDX-License-Identifier: Apache-2.0
"""Frames of a speech encoder that does not train, kept in memory within `keep_frames`: on a CPU the encoder costs most
of a step, and a clip has the same frames in every epoch, and in every run of a process that has the same encoder.

Legend: F mel bins, M mel frames, S encoder frames, D width.
"""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

KEPT_BYTES = 2**30
Key = tuple[str, ...]


class KeptFrames:
    """{key: frames (S, D)}; the least recently used leave when there are more than `limit` bytes."""

    def __init__(self, limit: int = KEPT_BYTES):
        self.free_bytes = limit
        self.frames: dict[Key, Tensor] = {}
        # not by id: that of an encoder that is gone may be another's
        self._encoders: WeakKeyDictionary[nn.Module, tuple[tuple, str]] = WeakKeyDictionary()

    def get(self, key: Key, compute: Callable[[], Tensor]) -> Tensor:
        frames_SD = self.frames.pop(key, None)
        if frames_SD is None:
            frames_SD = compute()
            self.free_bytes -= frames_SD.nbytes
        self.frames[key] = frames_SD  # now the last one to leave
        while self.free_bytes < 0:
            self.free_bytes += self.frames.pop(next(iter(self.frames))).nbytes
        return frames_SD

    def encoder_hash(self, encoder: nn.Module) -> str:
        """A hash of its weights, computed again when they have changed."""
        weights = list(encoder.parameters())
        version = tuple((p.data_ptr(), p._version) for p in weights)
        known, found = self._encoders.get(encoder, ((), ""))
        if known != version:
            found = hash_of_tensors(*(p.detach() for p in weights))
            self._encoders[encoder] = version, found
        return found


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


def frames_kept_for(encoder: nn.Module, device: torch.device) -> KeptFrames | None:
    """Where the frames of an encoder are kept now. None without `keep_frames`, where the encoder trains, and on a GPU,
    where it costs little."""
    if _active is None or device.type != "cpu" or encoder.training or torch.is_autocast_enabled("cpu"):
        return None
    if torch.is_grad_enabled() and any(p.requires_grad for p in encoder.parameters()):
        return None
    return _active


def hash_of_tensors(*tensors: Tensor) -> str:
    found = hashlib.blake2b(digest_size=16)
    for tensor in tensors:
        found.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
        found.update(tensor.contiguous().view(torch.uint8).numpy().data)
    return found.hexdigest()
