"""Small models with random weights, written as GGUF files: other architectures and quantisations than the real one.

What they say is nonsense; how it is computed is not.  The format is that of ggml's docs/gguf.md, version 3.
"""

from __future__ import annotations

import itertools
import struct
from pathlib import Path

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]
Value = str | int | float | bool | list[str] | list[int]

_ALIGN = 32
_F32, _F16, _Q8_0 = 0, 1, 8  # ggml types
_U32, _I32, _FLOAT, _BOOL, _STRING, _LIST = 4, 5, 6, 7, 8, 9  # GGUF types
_FILE_TYPES = {_F32: 0, _F16: 1, _Q8_0: 7}
TEMPLATE = "{% for m in messages %}<s>{{ m.role }}\n{{ m.content }}</s>\n{% endfor %}<s>assistant\n"

_DIM, _FF, _HEADS, _KV_HEADS, _HEAD = 256, 512, 4, 2, 64


def write_qwen2(path: Path, *, layers: int = 3, seed: int = 1) -> Path:
    """A model of the architecture qwen2 in Q8_0: biases, and a matrix for the output of its own."""
    return _write(path, "qwen2", _Q8_0, layers, seed, {})


def write_gemma3(path: Path, *, layers: int = 6, window: int = 192, seed: int = 2) -> Path:
    """A model of the architecture gemma3 in F16, whose layers but every sixth look back on a window only."""
    return _write(path, "gemma3", _F16, layers, seed, {"attention.sliding_window": window})


def write_moe(path: Path, *, experts: int = 8, seed: int = 4) -> Path:
    """A model of the architecture llama in Q8_0, two of whose experts compute each token."""
    rng = np.random.default_rng(seed)
    fields = _fields("llama", _Q8_0)
    of_model: dict[str, Value] = {
        "block_count": 3,
        "context_length": 4096,
        "embedding_length": _DIM,
        "feed_forward_length": _FF,
        "attention.head_count": _HEADS,
        "attention.head_count_kv": _KV_HEADS,
        "attention.layer_norm_rms_epsilon": 1e-6,
        "rope.dimension_count": _HEAD,
        "expert_count": experts,
        "expert_used_count": 2,
    }
    fields |= {f"llama.{name}": value for name, value in of_model.items()}
    tensors: list[tuple[str, int, Array]] = []

    def matrix(name: str, *shape: int, scale: float = 1.0, kind: int = _Q8_0) -> None:
        values = rng.standard_normal(shape, dtype=np.float32) * scale * shape[-1] ** -0.5
        tensors.append((f"{name}.weight", kind, values))

    matrix("token_embd", len(_alphabet()), _DIM, scale=16.0)
    matrix("output", len(_alphabet()), _DIM, scale=4.0)
    tensors.append(("output_norm.weight", _F32, np.ones(_DIM, np.float32)))
    for block in ("blk.0.", "blk.1.", "blk.2."):
        tensors += [(f"{block}{n}_norm.weight", _F32, np.ones(_DIM, np.float32)) for n in ("attn", "ffn")]
        matrix(f"{block}attn_q", _HEADS * _HEAD, _DIM)
        matrix(f"{block}attn_k", _KV_HEADS * _HEAD, _DIM)
        matrix(f"{block}attn_v", _KV_HEADS * _HEAD, _DIM)
        matrix(f"{block}attn_output", _DIM, _HEADS * _HEAD)
        matrix(f"{block}ffn_gate_inp", experts, _DIM, kind=_F32)
        matrix(f"{block}ffn_gate_exps", experts, _FF, _DIM)
        matrix(f"{block}ffn_up_exps", experts, _FF, _DIM)
        matrix(f"{block}ffn_down_exps", experts, _DIM, _FF)
    path.write_bytes(_file(fields, tensors))
    return path


def write_gpt2(path: Path, *, context: int = 128, seed: int = 3) -> Path:
    """A model of the architecture gpt2 in F32, which knows positions by a table: so many and no more."""
    rng = np.random.default_rng(seed)
    fields = _fields("gpt2", _F32)
    of_model: dict[str, Value] = {
        "block_count": 2,
        "context_length": context,
        "embedding_length": _DIM,
        "feed_forward_length": _FF,
        "attention.head_count": _HEADS,
        "attention.layer_norm_epsilon": 1e-5,
    }
    fields |= {f"gpt2.{name}": value for name, value in of_model.items()}
    tensors: list[tuple[str, int, Array]] = []

    def tensor(name: str, *shape: int) -> None:
        near = 1.0 if name.endswith("norm.weight") else 0.0
        tensors.append((name, _F32, (near + 0.1 * rng.standard_normal(shape)).astype(np.float32)))

    tensor("token_embd.weight", len(_alphabet()), _DIM)
    tensor("position_embd.weight", context, _DIM)
    shapes = {"attn_qkv": 3 * _DIM, "attn_output": _DIM, "ffn_up": _FF, "ffn_down": _DIM}
    for place in (
        "output_norm",
        *(f"blk.{i}.{name}" for i in range(2) for name in ("attn_norm", "ffn_norm")),
    ):
        tensor(f"{place}.weight", _DIM)
        tensor(f"{place}.bias", _DIM)
    for i, (name, rows) in itertools.product(range(2), shapes.items()):
        tensor(f"blk.{i}.{name}.weight", rows, _FF if name == "ffn_down" else _DIM)
        tensor(f"blk.{i}.{name}.bias", rows)
    path.write_bytes(_file(fields, tensors))
    return path


def _fields(arch: str, kind: int) -> dict[str, Value]:
    """What a file says of itself, but for what its architecture asks for."""
    tokens = _alphabet()
    return {
        "general.architecture": arch,
        "general.file_type": _FILE_TYPES[kind],
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [1] * (len(tokens) - 2) + [3, 3],
        "tokenizer.ggml.merges": ["t h", "th e"],
        "tokenizer.ggml.bos_token_id": len(tokens) - 2,
        "tokenizer.ggml.eos_token_id": len(tokens) - 1,
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.chat_template": TEMPLATE,
    }


def _write(path: Path, arch: str, kind: int, layers: int, seed: int, more: dict[str, Value]) -> Path:
    rng = np.random.default_rng(seed)
    tokens = _alphabet()
    fields = _fields(arch, kind)
    of_model: dict[str, Value] = {
        "block_count": layers,
        "context_length": 4096,
        "embedding_length": _DIM,
        "feed_forward_length": _FF,
        "attention.head_count": _HEADS,
        "attention.head_count_kv": _KV_HEADS,
        "attention.key_length": _HEAD,
        "attention.value_length": _HEAD,
        "attention.layer_norm_rms_epsilon": 1e-6,
        "rope.freq_base": 10000.0,
        **more,
    }
    fields |= {f"{arch}.{name}": value for name, value in of_model.items()}

    tensors: list[tuple[str, int, Array]] = []

    def matrix(name: str, rows: int, columns: int, scale: float = 1.0) -> None:
        values = rng.standard_normal((rows, columns), dtype=np.float32) * scale * columns**-0.5
        tensors.append((f"{name}.weight", kind, values))

    def vector(name: str, size: int, *, near: float) -> None:
        tensors.append((name, _F32, (near + 0.1 * rng.standard_normal(size)).astype(np.float32)))

    gemma = arch == "gemma3"
    matrix("token_embd", len(tokens), _DIM, 1.0 if gemma else 16.0)
    vector("output_norm.weight", _DIM, near=1.0)
    if not gemma:
        matrix("output", len(tokens), _DIM, 4.0)
    for i in range(layers):
        block = f"blk.{i}."
        vector(f"{block}attn_norm.weight", _DIM, near=1.0)
        vector(f"{block}ffn_norm.weight", _DIM, near=1.0)
        matrix(f"{block}attn_q", _HEADS * _HEAD, _DIM)
        matrix(f"{block}attn_k", _KV_HEADS * _HEAD, _DIM)
        matrix(f"{block}attn_v", _KV_HEADS * _HEAD, _DIM)
        matrix(f"{block}attn_output", _DIM, _HEADS * _HEAD)
        matrix(f"{block}ffn_gate", _FF, _DIM)
        matrix(f"{block}ffn_up", _FF, _DIM)
        matrix(f"{block}ffn_down", _DIM, _FF)
        if gemma:
            for name, size in (("attn_q_norm", _HEAD), ("attn_k_norm", _HEAD)):
                vector(f"{block}{name}.weight", size, near=1.0)
            for name in ("post_attention_norm", "post_ffw_norm"):
                vector(f"{block}{name}.weight", _DIM, near=1.0)
        else:
            vector(f"{block}attn_q.bias", _HEADS * _HEAD, near=0.0)
            vector(f"{block}attn_k.bias", _KV_HEADS * _HEAD, near=0.0)
            vector(f"{block}attn_v.bias", _KV_HEADS * _HEAD, near=0.0)
    path.write_bytes(_file(fields, tensors))
    return path


def _alphabet() -> list[str]:
    """The 256 bytes as byte-level BPE writes them, some merged texts, and two control tokens."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in plain]
    shown = {byte: chr(byte) for byte in plain} | {byte: chr(256 + i) for i, byte in enumerate(others)}
    return [*(shown[byte] for byte in range(256)), "th", "the", "<s>", "</s>"]


def _file(fields: dict[str, Value], tensors: list[tuple[str, int, Array]]) -> bytes:
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(fields))
    for name, value in fields.items():
        head += _string(name) + _field(value)
    blobs, offset = [], 0
    for name, kind, values in tensors:
        data = _encoded(kind, values)
        shape = values.shape[::-1]
        head += _string(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)
        blobs.append(data + bytes(-len(data) % _ALIGN))
        offset += len(blobs[-1])
    return head + bytes(-len(head) % _ALIGN) + b"".join(blobs)


def _encoded(kind: int, values: Array) -> bytes:
    if kind == _F32:
        return values.tobytes()
    if kind == _F16:
        return values.astype(np.float16).tobytes()
    blocks = values.reshape(-1, 32)  # Q8_0: a scale in F16, and 32 signed bytes
    scale = np.abs(blocks).max(axis=1, keepdims=True) / 127
    whole = np.round(blocks / scale).astype(np.int8)
    return np.concatenate([scale.astype(np.float16).view(np.int8), whole], axis=1).tobytes()


def _field(value: Value) -> bytes:
    if isinstance(value, list):
        kind = _STRING if isinstance(value[0], str) else _I32
        return struct.pack("<IIQ", _LIST, kind, len(value)) + b"".join(map(_bare, value))
    kind = {str: _STRING, bool: _BOOL, int: _U32, float: _FLOAT}[type(value)]
    return struct.pack("<I", kind) + _bare(value)


def _bare(value: str | int | float | bool) -> bytes:
    if isinstance(value, str):
        return _string(value)
    if isinstance(value, bool):
        return struct.pack("<?", value)
    return struct.pack("<I" if isinstance(value, int) else "<f", value)


def _string(text: str) -> bytes:
    raw = text.encode()
    return struct.pack("<Q", len(raw)) + raw
