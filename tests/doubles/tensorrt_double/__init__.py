"""TensorRT without TensorRT: a module `tensorrt` of 10.3.0 or 11.4.0 that parses, builds and runs plans on the CPU.

The names, keywords and enum values of each version are those of its real Python bindings (held against them by
`tests/test_tensorrt_contract.py`); what a version lacks raises AttributeError. The ONNX parser refuses what TensorRT
refuses, from rules that share no code with the exporter. A plan is the ONNX plus the settings; a context runs it with
ONNX Runtime on the memory at the bound addresses, in the order of the stream, through the driver double `cuda_driver`.
"""

from __future__ import annotations

from .assemble import VERSIONS, install, module

__all__ = ["VERSIONS", "install", "module"]
