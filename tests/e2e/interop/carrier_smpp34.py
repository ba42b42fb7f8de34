"""A carrier by smpp34, a Rust stack with a codec and sessions of its own: nothing in it is Sotto's.

    carrier_smpp34.py PORT

Prints one JSON object a line: its port first, then what happened. Ids are decimal in answers and hexadecimal in
receipts, which it tells by optional parameters alone. The first part to a number that ends with 909
gets ESME_RTHROTTLED. Its server side takes any password.
"""

import asyncio
import json
import sys

import smpp34

DELIVERED = b"\x02"
RECEIPT = 0x04


def tell(**what):
    print(json.dumps(what), flush=True)


async def deliver(esme, part, number):
    tlvs = [
        smpp34.Tlv(smpp34.TLV_RECEIPTED_MESSAGE_ID, b"%x\0" % number),
        smpp34.Tlv(smpp34.TLV_MESSAGE_STATE, DELIVERED),
    ]
    answer = await esme.deliver_sm(
        part.source_addr, source_addr=part.destination_addr, esm_class=RECEIPT, tlvs=tlvs
    )
    tell(event="receipt", taken=answer.is_success)


async def main():
    server = smpp34.Server("127.0.0.1", int(sys.argv[1]), system_id="smpp34")
    await server.start()
    tell(event="listening", port=int(sys.argv[1]))
    esmes, tasks, throttled, number = {}, set(), set(), 7_000_000_000
    while True:
        event = await server.next()
        if isinstance(event, smpp34.Esme):
            esmes[event.session_id] = event
            tell(event="bound", system_id=event.system_id)
        elif isinstance(event, smpp34.Unbound):
            esmes.pop(event.session_id, None)
            tell(event="unbound")
        elif event.destination_addr.endswith("909") and event.destination_addr not in throttled:
            throttled.add(event.destination_addr)
            event.reject(smpp34.ESME_RTHROTTLED)
            tell(event="throttled", to=event.destination_addr)
        else:
            number += 1
            event.accept(str(number))
            tell(
                event="submitted",
                to=event.destination_addr,
                sender=event.source_addr,
                coding=event.data_coding,
                octets=event.short_message.hex(),
                tlvs={str(tlv.tag): tlv.as_int() for tlv in event.tlvs},
            )
            task = asyncio.create_task(deliver(esmes[event.session_id], event, number))
            tasks.add(task)
            task.add_done_callback(tasks.discard)


asyncio.run(main())
