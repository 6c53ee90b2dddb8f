"""The double and our own code against the real Python bindings of TensorRT 10.3.0 and 11.4.0."""

from __future__ import annotations

import inspect
import types
from typing import Any

import pytest

from tests.doubles import tensorrt_double
from tests.tensorrt_bindings import VERSIONS, Unavailable, surface
from tests.tensorrt_uses import Use, uses_in, uses_of_product

DUNDERS = ("__len__", "__getitem__")


@pytest.fixture(scope="session", params=VERSIONS)
def version(request: pytest.FixtureRequest) -> str:
    real(request.param)
    return request.param


def real(version: str) -> dict[str, Any]:
    """The surface of one version; the test is skipped, with the reason, where the bindings cannot be had."""
    try:
        return surface(version)
    except Unavailable as reason:
        pytest.skip(str(reason))


def is_enumeration(member: Any) -> bool:
    return isinstance(member, type) and isinstance(getattr(member, "__members__", None), dict)


def public(owner: Any) -> dict[str, Any]:
    return {key: value for key, value in vars(owner).items() if not key.startswith("_") or key in DUNDERS}


def shapes_of(call: list[list[Any]]) -> set[tuple[str, ...]]:
    """Every list of argument names that a call may have, cut from the end where arguments are optional."""
    names, needed = [name for name, _ in call], sum(required for _, required in call)
    return {tuple(names[:count]) for count in range(needed, len(names) + 1)}


def own_call(function: Any) -> list[list[Any]]:
    parameters = [p for p in inspect.signature(function).parameters.values() if p.name != "self"]
    return [[p.name, p.default is inspect.Parameter.empty] for p in parameters]


def compare_class(owner: type, there: dict[str, Any]) -> list[str]:
    """What the double's class has that the real one has not."""
    wrong = [] if there["constructors"] or "__init__" not in vars(owner) else constructor_differences(owner)
    if there["constructors"]:
        allowed = set().union(*(shapes_of(call) for call in there["constructors"]))
        wrong += [f"__init__{shape}" for shape in shapes_of(own_call(owner.__init__)) - allowed]
    for key, member in public(owner).items():
        if key in DUNDERS and issubclass(owner, bytes):
            continue  # IHostMemory: they raise TypeError, see test_host_memory_is_a_buffer_and_no_sequence
        found = there["members"].get(key)
        if is_enumeration(member):
            continue
        if found is None:
            wrong.append(f"{key} does not exist")
        elif isinstance(member, property):
            if found["kind"] != "property":
                wrong.append(f"{key} is a {found['kind']}")
            elif member.fset is not None and not found["settable"]:
                wrong.append(f"{key} cannot be set")
        elif isinstance(member, types.FunctionType) and key not in DUNDERS:
            if found["kind"] != "method":
                wrong.append(f"{key} is a {found['kind']}")
                continue
            allowed = set().union(*(shapes_of(call) for call in found["calls"]))
            wrong += [f"{key}{shape} is no call" for shape in shapes_of(own_call(member)) - allowed]
    return [f"{owner.__name__}.{line}" for line in wrong]


def constructor_differences(owner: type) -> list[str]:
    """A class without a constructor refuses to be made."""
    try:
        owner()
    except TypeError as error:
        return [] if "No constructor defined" in str(error) else [f"__init__ says {error}"]
    return ["__init__ does not refuse"]


def test_the_double_has_nothing_that_the_bindings_lack(version: str) -> None:
    trt, there = tensorrt_double.module(version), real(version)
    wrong: list[str] = [] if trt.__version__ == there["version"] else [f"__version__ is {trt.__version__}"]
    for name, member in public(trt).items():
        if is_enumeration(member):
            continue
        if isinstance(member, type):
            wrong += compare_class(member, there["classes"].get(name, {"constructors": [], "members": {}}))
        elif isinstance(member, types.FunctionType):
            allowed = set().union(*(shapes_of(call) for call in there["functions"].get(name, [])))
            wrong += [f"{name}{shape} is no call" for shape in shapes_of(own_call(member)) - allowed]
        elif name not in there["values"]:
            wrong.append(f"{name} does not exist")
    assert wrong == []


def test_the_comparison_finds_planted_differences(version: str) -> None:
    trt = tensorrt_double.module(version)
    trt.Builder.max_batch_size = property(lambda self: 1)
    trt.ICudaEngine.num_layers = property(lambda self: 1, lambda self, value: None)
    trt.Builder.create_network = lambda self, flags, name: None
    there = real(version)["classes"]
    assert compare_class(trt.Builder, there["Builder"]) == [
        "Builder.create_network('flags', 'name') is no call", "Builder.max_batch_size does not exist",
    ]  # fmt: skip
    assert compare_class(trt.ICudaEngine, there["ICudaEngine"]) == ["ICudaEngine.num_layers cannot be set"]


def test_the_doubles_enumerations_have_the_bindings_numbers(version: str) -> None:
    trt, there = tensorrt_double.module(version), real(version)["enums"]
    ours = {name: member for name, member in public(trt).items() if is_enumeration(member)}
    ours["ILogger.Severity"] = trt.ILogger.Severity
    numbers = {name: {key: int(value) for key, value in member.__members__.items()} for name, member in ours.items()}
    assert numbers == {name: there.get(name) for name in numbers}
    assert "FP16" in numbers["BuilderFlag"] or version == "11.4.0"


def test_the_doubles_short_data_types_are_the_bindings(version: str) -> None:
    trt = tensorrt_double.module(version)
    short = {name for name in public(trt) if isinstance(getattr(trt, name), trt.DataType)}
    assert short == set(real(version)["values"]) - {"attr", "value"}  # two variables that the wheel's loop leaves


def test_host_memory_is_a_buffer_and_no_sequence(version: str) -> None:
    trt = tensorrt_double.module(version)
    memory = trt.IHostMemory.__new__(trt.IHostMemory, b"plan")
    assert (bytes(memory), memoryview(memory).nbytes, memory.nbytes) == (b"plan", 4, 4)
    for refused in (len, iter, lambda held: held[0]):
        with pytest.raises(TypeError):
            refused(memory)
    with pytest.raises(AttributeError):
        memory.hex()


def test_the_bindings_differ_where_our_code_asks_first() -> None:
    """The differences between the generations that the double must not smooth over."""
    old, new = real("10.3.0"), real("11.4.0")
    assert old["enums"]["NetworkDefinitionCreationFlag"]["STRONGLY_TYPED"] == 1
    assert new["enums"]["NetworkDefinitionCreationFlag"]["STRONGLY_TYPED"] == 0
    assert {"FP16", "INT8"} <= set(old["enums"]["BuilderFlag"]) - set(new["enums"]["BuilderFlag"])
    add = [side["classes"]["INetworkDefinition"]["members"]["add_dequantize"]["calls"] for side in (old, new)]
    assert all(("input", "scale", "output_type") in shapes_of(call) for call in (add[0][1], add[1][0]))
    assert [len(calls) for calls in add] == [2, 1] and len(add[0][0]) == 2  # 10.3 alone does without output_type
    assert "device_memory_size" not in new["classes"]["ICudaEngine"]["members"]
    assert not new["classes"]["ITensor"]["members"]["dtype"]["settable"]


def owners(version: str, use: Use) -> dict[str, Any] | None:
    """What the bindings say of one use: a class, a member, an enumeration's member; None where there is nothing."""
    there = real(version)
    path = use.path
    if path[0] in there["enums"]:
        enumeration = there["enums"][path[0]]
        return {"kind": "enum"} if len(path) == 1 or path[1] == "__members__" or path[1] in enumeration else None
    if path[0] in there["classes"]:
        if len(path) == 1 or path[1] == "__init__":
            return {"kind": "class", "calls": there["classes"][path[0]]["constructors"]}
        inner = f"{path[0]}.{path[1]}"
        if inner in there["enums"]:
            return {"kind": "enum"} if len(path) == 2 or path[2] in there["enums"][inner] else None
        return there["classes"][path[0]]["members"].get(path[1])
    if path[0] in there["functions"]:
        return {"kind": "function", "calls": there["functions"][path[0]]}
    return {"kind": "value"} if path[0] in there["values"] or path[0] == "__version__" else None


def availability(use: Use) -> tuple[bool, ...]:
    return tuple(owners(version, use) is not None for version in VERSIONS)


def is_asked_first(use: Use, all_uses: list[Use]) -> bool:
    """Whether the file probes for this very name, or for its class, which is there in the same versions."""
    words = {part.replace("_", "").lower() for part in use.path}
    return any(
        probe.replace("_", "").lower() in words
        for probe in {each.probe for each in all_uses if each.probe and each.file == use.file}
    )


def test_our_code_names_only_what_both_versions_have_or_asks_first() -> None:
    uses = uses_of_product()
    missing = [use for use in uses if not use.probe and not all(availability(use))]
    assert [str(use) for use in missing if not is_asked_first(use, uses)] == []
    names = {".".join(use.path) for use in uses}
    # Were the search for uses to find nothing, the test above would pass.
    assert {
        "Builder", "OnnxParser.parse", "Builder.build_serialized_network", "IBuilderConfig.set_memory_pool_limit",
        "Runtime.deserialize_cuda_engine", "IExecutionContext.execute_async_v3", "IExecutionContext.set_tensor_address",
    } <= names  # fmt: skip


def test_our_code_calls_with_arguments_that_the_bindings_take() -> None:
    wrong = []
    for use in uses_of_product():
        for version in VERSIONS:
            there = owners(version, use)
            if use.arguments is None or there is None or not there.get("calls"):
                continue
            if not any(use.fits(call) for call in there["calls"]):
                wrong.append(f"{use}: {version} takes {there['calls']}")
    assert wrong == []


def test_our_code_sets_only_what_can_be_set() -> None:
    uses = [use for use in uses_of_product() if use.is_set]
    assert uses
    for version in VERSIONS:
        there = [(use, owners(version, use)) for use in uses]
        assert [str(use) for use, member in there if member and not member.get("settable")] == []


PLANTED = """
def build(trt, log):
    builder = trt.Builder(log)
    config = builder.create_builder_config()
    config.int8_calibrator = None
    config.set_flag(trt.BuilderFlag.FP16)
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE)
    builder.build_serialized_network(network, settings=config)
"""


def test_the_check_finds_planted_mistakes() -> None:
    uses = uses_in("planted.py", PLANTED)
    lacking = {".".join(use.path) for use in uses if not all(availability(use))}
    assert lacking == {"IBuilderConfig.int8_calibrator", "BuilderFlag.FP16"}
    misfits = {use.path[1] for use in uses if use.arguments and not fits_somewhere(use)}
    assert misfits == {"set_memory_pool_limit", "build_serialized_network"}
    asked = uses_in("planted.py", PLANTED + '    return "FP16" in trt.BuilderFlag.__members__\n')
    assert [
        ".".join(u.path) for u in asked if not all(availability(u)) and is_asked_first(u, asked) and not u.probe
    ] == ["BuilderFlag.FP16"]


def fits_somewhere(use: Use) -> bool:
    calls = (owners(VERSIONS[0], use) or {}).get("calls") or []
    return not calls or any(use.fits(call) for call in calls)
