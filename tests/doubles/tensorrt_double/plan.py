"""The bytes of a plan: magic, length, checksum, a header in JSON, the ONNX."""

from __future__ import annotations

import json
import struct
import zlib
from typing import Any

MAGIC = b"ftrt"  # as true plans begin
LEAD = struct.Struct("<4sIII")  # magic, bytes of the header, bytes of the ONNX, CRC-32 of both


def plan_from_parts(header: dict[str, Any], onnx_bytes: bytes) -> bytes:
    text = json.dumps(header).encode()
    body = text + onnx_bytes
    return LEAD.pack(MAGIC, len(text), len(onnx_bytes), zlib.crc32(body)) + body


def parts_from_plan(plan: bytes) -> tuple[dict[str, Any], bytes]:
    """Header and ONNX; ValueError with TensorRT's kind of message where the plan is damaged."""
    if len(plan) < LEAD.size or plan[:4] != MAGIC:
        raise ValueError("Serialization assertion magicTagRead == kMAGIC_TAG failed.Magic tag does not match")
    _, header_bytes, onnx_bytes, checksum = LEAD.unpack_from(plan)
    body = plan[LEAD.size :]
    if len(body) != header_bytes + onnx_bytes:
        expected = LEAD.size + header_bytes + onnx_bytes
        raise ValueError(f"Serialization assertion failed: the plan has {len(plan)} bytes, expected {expected}")
    if zlib.crc32(body) != checksum:
        raise ValueError("Serialization assertion failed: the plan's checksum does not match")
    return json.loads(body[:header_bytes]), body[header_bytes:]
