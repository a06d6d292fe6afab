"""gRPC's own client against a simulator: `grpc_client.py <host:port> <model> [certificate]`.

Started by tests/it/sim_clients.rs. Knows no .proto: services, methods and messages are those that reflection tells of.
Ends with a non-zero code at the first thing that is not as the client expects it.
"""

import sys

import grpc
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

ADDRESS, MODEL = sys.argv[1], sys.argv[2]
SERVICE = "vllm.grpc.engine.VllmEngine"
DEADLINE = 20

if len(sys.argv) > 3:
    with open(sys.argv[3], "rb") as file:
        credentials = grpc.ssl_channel_credentials(root_certificates=file.read())
    options = [("grpc.ssl_target_name_override", "localhost")]
    channel = grpc.secure_channel(ADDRESS, credentials, options)
else:
    channel = grpc.insecure_channel(ADDRESS)

reflection = ProtoReflectionDescriptorDatabase(channel)
services = set(reflection.get_services())
assert services == {
    SERVICE,
    "grpc.reflection.v1.ServerReflection",
    "grpc.reflection.v1alpha.ServerReflection",
}, services
methods = DescriptorPool(reflection).FindServiceByName(SERVICE).methods_by_name
served = {"Generate", "GetModelInfo"}
assert served < set(methods) and len(methods) == 6, set(methods)


def call(name, **fields):
    """Calls a method; its answers."""
    method = methods[name]
    ask, answer = GetMessageClass(method.input_type), GetMessageClass(method.output_type)
    make = channel.unary_stream if method.server_streaming else channel.unary_unary
    run = make(f"/{SERVICE}/{name}", ask.SerializeToString, answer.FromString)
    called = run(ask(**fields), timeout=DEADLINE)
    return called if method.server_streaming else [called]


def refused(name, **fields):
    """Calls a method that does not answer; the code it ends with."""
    try:
        list(call(name, **fields))
    except grpc.RpcError as error:
        return error.code()
    raise AssertionError(f"{name} answered")


[info] = call("GetModelInfo")
assert info.model_path == MODEL and info.is_generation and info.max_context_length == 1024, info

ids = [32, 45, 78, 13]
[whole] = call("Generate", request_id="1", tokenized={"input_ids": ids}, sampling_params={"max_tokens": 9})
assert whole.WhichOneof("response") == "complete", whole
assert list(whole.complete.output_ids) == ids and whole.complete.finish_reason == "stop", whole
assert (whole.complete.prompt_tokens, whole.complete.completion_tokens) == (4, 4), whole

*chunks, last = call("Generate", tokenized={"input_ids": ids}, sampling_params={"max_tokens": 4}, stream=True)
assert [list(c.chunk.token_ids) for c in chunks] == [[i] for i in ids], chunks
assert all((c.chunk.prompt_tokens, c.chunk.completion_tokens) == (4, 1) for c in chunks), chunks
assert last.complete.finish_reason == "length" and not last.complete.output_ids, last

[text] = call("Generate", text="Hello there, simulator.")
assert text.complete.prompt_tokens == len(text.complete.output_ids) == 5, text

assert refused("Generate", text="x", sampling_params={"max_tokens": 5000}) == grpc.StatusCode.INVALID_ARGUMENT
for name in set(methods) - served:
    # One message, and nothing in it.
    assert [answer.ByteSize() for answer in call(name)] == [0], name

# A call that is given up after its first token.
stream = call("Generate", text="a b c d", stream=True)
next(stream)
stream.cancel()
channel.close()
print("as expected")
