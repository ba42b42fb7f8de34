"""A client by aiosmpplib: binds, sends, waits for the receipt of each message and unbinds. Nothing in it is Sotto's.

    client_aiosmpplib.py HOST PORT PASSWORD_FILE < {"to": "text", …}

Prints one JSON object a line. It knows no TLS. Long texts it cuts itself, joined by a user data header and by `sar_*`
parameters at once; it cannot cut with the parameters alone (`encoding` is not bound there in 0.7.4).
"""

import asyncio
import json
import sys

from aiosmpplib import ESME, PhoneNumber, SubmitSm
from aiosmpplib.hook import AbstractHook
from aiosmpplib.protocol import DeliverSm, SubmitSmResp
from aiosmpplib.state import NPI, TON

host, port, password_file = sys.argv[1:]


def tell(**what):
    print(json.dumps(what), flush=True)


UDHI = 0x40


class Hook(AbstractHook):
    def __init__(self):
        self.receipts = asyncio.Queue()

    async def sending(self, smpp_message, pdu, client_id):
        pass

    # Of a message in parts it is told the last answer and the last receipt; of the others only that they came.
    async def received(self, smpp_message, pdu, client_id):
        if isinstance(smpp_message, DeliverSm) and smpp_message.is_receipt():
            told = smpp_message.parse_receipt()
            tell(event="receipt", id=told["id"], delivered=told["stat"] == "DELIVRD", log_id=smpp_message.log_id)
            await self.receipts.put(smpp_message.log_id)
        elif isinstance(smpp_message, SubmitSmResp):
            tell(event="answer", status=smpp_message.command_status.name, log_id=smpp_message.log_id)

    async def send_error(self, smpp_message, error, client_id):
        tell(event="strange", error=repr(error))


async def main():
    with open(password_file) as file:
        password = file.readline().rstrip("\n")
    texts = json.load(sys.stdin)
    hook = Hook()
    esme = ESME(host, int(port), "peer", password, hook=hook, enquire_link_interval=1.0, log_level="ERROR")
    for to, text in texts.items():
        await esme.broker.enqueue(
            SubmitSm(
                short_message=text,
                source=PhoneNumber("ACMEBANK", TON.ALPHANUMERIC, NPI.UNKNOWN),
                destination=PhoneNumber(to, TON.INTERNATIONAL, NPI.ISDN),
                esm_class=UDHI,
                auto_message_payload=False,
                log_id=to,
            )
        )
    running = asyncio.create_task(esme.start())
    waiting = set(texts)
    while waiting:
        waiting.discard(await hook.receipts.get())
    await esme.stop()
    await running
    tell(event="done")


asyncio.run(main())
