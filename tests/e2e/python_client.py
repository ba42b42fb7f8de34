"""A client that shares no code with Sotto: Python grpcio with stubs generated from the published protocol files.

usage: python_client.py STUBS TARGET CA_FILE   (the access token is read from standard input)

Prints one JSON object with what it saw; the test judges it.
"""

import json
import sys
import time

import grpc

stubs, target, ca_file = sys.argv[1:]
sys.path.insert(0, stubs)
token = sys.stdin.readline().strip()

from google.rpc import error_details_pb2, status_pb2  # noqa: E402
from sotto.message.v1 import message_pb2 as pb  # noqa: E402
from sotto.message.v1 import message_pb2_grpc as rpc  # noqa: E402

with open(ca_file, "rb") as file:
    credentials = grpc.ssl_channel_credentials(root_certificates=file.read())
channel = grpc.secure_channel(target, credentials)
metadata = (("authorization", f"Bearer {token}"),)
service = rpc.MessageServiceStub(channel)


def message(n, **changes):
    fields = {
        "to": f"+8491{n:07d}",
        "from": "ACMEBANK",
        "text": "Mã xác thực của bạn là 482913.",
        "class": pb.MESSAGE_CLASS_OTP,
    }
    fields.update(changes)
    return pb.OutboundMessage(**fields)


def refused(call):
    """The status, its field violations and its retry delay, as google.rpc says them."""
    try:
        call()
    except grpc.RpcError as error:
        told = {"code": error.code().name, "fields": [], "challenge": ""}
        for key, value in error.trailing_metadata() or ():
            if key == "www-authenticate":
                told["challenge"] = value
            if key == "grpc-status-details-bin":
                for detail in status_pb2.Status.FromString(value).details:
                    violations = error_details_pb2.BadRequest()
                    if detail.Unpack(violations):
                        told["fields"] += [[it.field, it.reason] for it in violations.field_violations]
        return told
    return {"code": "OK"}


seen = {}
sent = service.Send(pb.SendRequest(message=message(1)), metadata=metadata, timeout=10)
seen["send"] = {"id": sent.message_id, "parts": sent.parts, "encoding": pb.Encoding.Name(sent.encoding)}

requests = (pb.SendStreamRequest(reference=n, message=message(n)) for n in range(100, 150))
answers = list(service.SendStream(requests, metadata=metadata, timeout=30))
seen["stream"] = {
    "references": sorted(answer.reference for answer in answers),
    "accepted": sum(answer.HasField("accepted") for answer in answers),
}

shown = service.GetMessage(pb.GetMessageRequest(message_id=sent.message_id), metadata=metadata, timeout=10)
seen["get"] = {"country": shown.country, "kinds": [step.kind for step in shown.journey]}

seen["bad_number"] = refused(
    lambda: service.Send(pb.SendRequest(message=message(1, to="+841261234567")), metadata=metadata, timeout=10)
)
seen["no_token"] = refused(lambda: service.Send(pb.SendRequest(message=message(1)), timeout=10))

# A field that the schema does not have: number 99 on the message, and number 98 around it.
inner = message(2).SerializeToString() + bytes([0x9A, 0x06, 0x01, 0x78])
outer = bytes([0x0A, len(inner)]) + inner
raw = channel.unary_unary("/sotto.message.v1.MessageService/Send")
seen["unknown_inside"] = refused(lambda: raw(outer, metadata=metadata, timeout=10))
outer = pb.SendRequest(message=message(2)).SerializeToString() + bytes([0x90, 0x06, 0x01])
seen["unknown_outside"] = refused(lambda: raw(outer, metadata=metadata, timeout=10))
seen["not_protobuf"] = refused(lambda: raw(b"\xff\xff\xff", metadata=metadata, timeout=10))
# A text that is not UTF-8.
inner = bytes([0x0A, 0x01, 0x31, 0x1A, 0x02, 0xC3, 0x28])
seen["not_utf8"] = refused(lambda: raw(bytes([0x0A, len(inner)]) + inner, metadata=metadata, timeout=10))

# Health (grpc.health.v1) and reflection (grpc.reflection.v1), called by their wire form.
health = channel.unary_unary("/grpc.health.v1.Health/Check")
name = b"sotto.message.v1.MessageService"
# It follows readiness within half a second.
until = time.monotonic() + 20
while (answer := list(health(bytes([0x0A, len(name)]) + name, timeout=10))) != [8, 1] and time.monotonic() < until:
    time.sleep(0.02)
seen["health"] = answer
reflection = channel.stream_stream("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo")
listed = b"".join(reflection(iter([bytes([0x3A, 0x01, 0x2A])]), timeout=10))
seen["reflection"] = name in listed
print(json.dumps(seen))
