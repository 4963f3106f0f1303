"""A model of the architecture BERT, made on the spot: it reads both ways, and completes no text.

Weights are random numbers of a seed, so its vectors mean nothing; that each text has its own is all they say.
"""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np

WIDTH, HEADS, LAYERS, INNER, CONTEXT = 32, 2, 2, 64, 64
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"\u2581{word}" for word in ["a", "b", "fox", "cat", "runs", "sleeps", "in", "the", "sun"])]  # fmt: skip
_ALIGNMENT = 32
_U32, _F32, _BOOL, _STRING, _ARRAY, _I32 = 4, 6, 7, 8, 9, 5


def write_bert(path: Path, *, pooling: int, seed: int = 1) -> Path:
    """A GGUF file; `pooling`: 1 the mean, 2 the first token, 4 ranks."""
    chance = np.random.default_rng(seed)

    def weights(*shape: int) -> np.ndarray:
        return chance.normal(scale=0.3, size=shape).astype(np.float32)

    tensors = {
        "token_embd.weight": weights(len(WORDS), WIDTH),
        "token_types.weight": weights(2, WIDTH),
        "position_embd.weight": weights(CONTEXT, WIDTH),
        "token_embd_norm.weight": np.ones(WIDTH, np.float32),
        "token_embd_norm.bias": np.zeros(WIDTH, np.float32),
    }
    for layer in range(LAYERS):
        for name, shape in {
            "attn_q": (WIDTH, WIDTH),
            "attn_k": (WIDTH, WIDTH),
            "attn_v": (WIDTH, WIDTH),
            "attn_output": (WIDTH, WIDTH),
            "ffn_up": (INNER, WIDTH),
            "ffn_down": (WIDTH, INNER),
        }.items():
            tensors[f"blk.{layer}.{name}.weight"] = weights(*shape)
            tensors[f"blk.{layer}.{name}.bias"] = weights(shape[0])
        for name in ("attn_output_norm", "layer_output_norm"):
            tensors[f"blk.{layer}.{name}.weight"] = np.ones(WIDTH, np.float32)
            tensors[f"blk.{layer}.{name}.bias"] = np.zeros(WIDTH, np.float32)

    entries = [
        _entry("general.architecture", _STRING, _text("bert")),
        _entry("bert.context_length", _U32, struct.pack("<I", CONTEXT)),
        _entry("bert.embedding_length", _U32, struct.pack("<I", WIDTH)),
        _entry("bert.block_count", _U32, struct.pack("<I", LAYERS)),
        _entry("bert.feed_forward_length", _U32, struct.pack("<I", INNER)),
        _entry("bert.attention.head_count", _U32, struct.pack("<I", HEADS)),
        _entry("bert.attention.layer_norm_epsilon", _F32, struct.pack("<f", 1e-12)),
        _entry("bert.attention.causal", _BOOL, b"\0"),
        _entry("bert.pooling_type", _U32, struct.pack("<I", pooling)),
        _entry("tokenizer.ggml.model", _STRING, _text("bert")),
        _entry("tokenizer.ggml.token_type_count", _U32, struct.pack("<I", 2)),
        _entry("tokenizer.ggml.tokens", _ARRAY, struct.pack("<IQ", _STRING, len(WORDS)) + b"".join(map(_text, WORDS))),
        _entry("tokenizer.ggml.token_type", _ARRAY, struct.pack("<IQ", _I32, len(WORDS))
               + struct.pack(f"<{len(WORDS)}i", *([3] * 5 + [1] * (len(WORDS) - 5)))),
        _entry("tokenizer.ggml.padding_token_id", _U32, struct.pack("<I", 0)),
        _entry("tokenizer.ggml.unknown_token_id", _U32, struct.pack("<I", 1)),
        _entry("tokenizer.ggml.cls_token_id", _U32, struct.pack("<I", 2)),
        _entry("tokenizer.ggml.bos_token_id", _U32, struct.pack("<I", 2)),
        _entry("tokenizer.ggml.seperator_token_id", _U32, struct.pack("<I", 3)),
        _entry("tokenizer.ggml.mask_token_id", _U32, struct.pack("<I", 4)),
    ]  # fmt: skip
    infos, data = b"", b""
    for name, tensor in tensors.items():
        shape = tensor.shape[::-1]
        infos += _text(name) + struct.pack("<I", len(shape)) + struct.pack(f"<{len(shape)}Q", *shape)
        infos += struct.pack("<IQ", 0, len(data))
        data += _padded(tensor.tobytes())
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(entries)) + b"".join(entries) + infos
    path.write_bytes(_padded(head) + data)
    return path


def _text(value: str) -> bytes:
    return struct.pack("<Q", len(value.encode())) + value.encode()


def _entry(key: str, kind: int, value: bytes) -> bytes:
    return _text(key) + struct.pack("<I", kind) + value


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % _ALIGNMENT)
