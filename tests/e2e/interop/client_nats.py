"""A client over NATS that shares no code with Sotto: nats-py, HPKE by pyhpke, messages generated from the published files.

usage: client_nats.py STUBS URL FOLDER   (the access token is read from standard input)

FOLDER is what `sotto client nats add` wrote. Prints one JSON object with what it saw; the test judges it. The functions
`seal` and `submit` are all that a program needs.
"""

import asyncio
import json
import pathlib
import ssl
import sys

import nats
from pyhpke import AEADId, CipherSuite, KDFId, KEMId, KEMKey

stubs, url, folder = sys.argv[1:]
sys.path.insert(0, stubs)
folder = pathlib.Path(folder)
token = sys.stdin.readline().strip()

from sotto.message.v1 import message_pb2 as pb  # noqa: E402
from sotto.message.v1 import submission_pb2 as sub  # noqa: E402

connection = json.loads((folder / "connection.json").read_text())
intake_key = json.loads((folder / "intake-key.json").read_text())
SUITE = CipherSuite.new(KEMId.DHKEM_X25519_HKDF_SHA256, KDFId.HKDF_SHA256, AEADId.CHACHA20_POLY1305)


def seal(submission, tenant=connection["tenant"]):
    """A request, sealed to the cell's intake key: docs/formats/submission.md, section 2."""
    fields = ("sotto.submission.v1", connection["cell"], tenant, intake_key["kid"])
    info = b"".join(len(field).to_bytes(8, "big") + field.encode() for field in fields)
    key = KEMKey.from_jwk({name: intake_key[name] for name in ("kty", "crv", "x")})
    encapsulated_key, sender = SUITE.create_sender_context(key, info)
    ciphertext = sender.seal(submission.SerializeToString())
    sealed = sub.SealedSubmission(
        key_id=intake_key["kid"], encapsulated_key=encapsulated_key, ciphertext=ciphertext
    )
    return sub.SubmitRequest(sealed=sealed)


def message(n, **changes):
    fields = {
        "to": f"+8491{n:07d}",
        "from": "ACMEBANK",
        "text": "Mã xác thực của bạn là 482913.",
        "class": pb.MESSAGE_CLASS_OTP,
    }
    fields.update(changes)
    return pb.SendStreamRequest(reference=n, message=pb.OutboundMessage(**fields), idempotency_key=f"order-{n}")


async def submit(client, request):
    """What became of a request. Without an answer: ask again with the same idempotency keys."""
    answer = await client.request(connection["subject"], request.SerializeToString(), timeout=15)
    return sub.SubmitResponse.FromString(answer.data)


def told(answer):
    """An answer as the test reads it."""
    if answer.HasField("error"):
        reasons = [violation.reason for violation in answer.error.field_violations]
        return {"code": answer.error.code, "reasons": reasons}
    results = []
    for one in answer.results.results:
        if one.HasField("accepted"):
            accepted = one.accepted
            results.append({"reference": one.reference, "id": accepted.message_id, "repeated": accepted.repeated})
        else:
            reasons = [violation.reason for violation in one.error.field_violations]
            results.append({"reference": one.reference, "code": one.error.code, "reasons": reasons})
    return results


async def main():
    tls = ssl.create_default_context(cafile=folder / "ca.pem")
    tls.load_cert_chain(folder / "cert.pem", folder / "cert.key")
    errors = []

    async def on_error(error):
        errors.append(str(error))

    client = await nats.connect(
        url,
        tls=tls,
        tls_handshake_first=True,
        nkeys_seed=str(folder / "nkey.seed"),
        inbox_prefix=connection["inbox_prefix"].encode(),
        error_cb=on_error,
    )
    seen = {}
    submission = sub.Submission(access_token=token, messages=[message(1), message(2, to="+841261234567"), message(3)])
    request = seal(submission)
    seen["first"] = told(await submit(client, request))
    # The same bytes again, as somebody who captured them would publish them.
    seen["replayed"] = told(await submit(client, request))
    # Sealed once more by somebody who was not answered.
    seen["again"] = told(await submit(client, seal(submission)))
    seen["clear"] = told(await submit(client, sub.SubmitRequest(clear=submission)))
    seen["other_info"] = told(await submit(client, seal(submission, tenant="globex")))
    seen["on_the_wire"] = [
        found in request.SerializeToString()
        for found in (b"84910000001", b"ACMEBANK", b"482913", token.encode()[:20])
    ]
    # Another tenant's subject, and the cell's own: refused by the broker.
    for subject in (connection["subject"].replace(connection["tenant"], "globex"), "$JS.API.INFO"):
        try:
            await client.request(subject, b"", timeout=1)
            errors.append(f"{subject} was answered")
        except nats.errors.Error:
            pass
    await client.flush()
    seen["broker"] = errors
    await client.drain()
    print(json.dumps(seen))


asyncio.run(main())
