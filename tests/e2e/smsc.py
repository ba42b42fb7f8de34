"""A carrier whose PDUs are read and written by smpp.pdu3, the codec of Jasmin: nothing in it is Sotto's.

    smsc.py PASSWORD_FILE

Prints one JSON object a line: its port first, then what happened. It answers with ids in hexadecimal and tells receipts
in decimal with leading zeros, by text and by optional parameters in turn. The first submit to a number ends with
ESME_RTHROTTLED if the number ends with 9.
"""

import asyncio
import io
import json
import sys

from smpp.pdu.operations import (
    BindReceiverResp,
    BindTransceiverResp,
    BindTransmitterResp,
    DeliverSM,
    EnquireLink,
    EnquireLinkResp,
    SubmitSMResp,
    UnbindResp,
)
from smpp.pdu.pdu_encoding import PDUEncoder
from smpp.pdu.pdu_types import (
    AddrNpi,
    AddrTon,
    CommandId,
    CommandStatus,
    EsmClass,
    EsmClassMode,
    EsmClassType,
    MessageState,
)

BINDS = {
    CommandId.bind_transceiver: BindTransceiverResp,
    CommandId.bind_transmitter: BindTransmitterResp,
    CommandId.bind_receiver: BindReceiverResp,
}


def tell(**what):
    print(json.dumps(what), flush=True)


class Carrier:
    def __init__(self, password):
        self.password = password
        self.next_id = 0xAB00
        self.throttled = set()
        self.receipts = 0

    async def serve(self, reader, writer):
        codec, own = PDUEncoder(), iter(range(1_000, 1_000_000))

        def send(pdu):
            writer.write(codec.encode(pdu))

        while True:
            try:
                head = await reader.readexactly(4)
                body = await reader.readexactly(int.from_bytes(head, "big") - 4)
            except asyncio.IncompleteReadError:
                return tell(event="closed")
            pdu = codec.decode(io.BytesIO(head + body))
            if pdu.id in BINDS:
                good = pdu.params["password"].decode() == self.password
                status = CommandStatus.ESME_ROK if good else CommandStatus.ESME_RINVPASWD
                send(BINDS[pdu.id](seqNum=pdu.seqNum, status=status, system_id=b"foreign"))
                tell(event="bound", kind=pdu.id.name, good=good)
                send(EnquireLink(seqNum=next(own)))
            elif pdu.id == CommandId.submit_sm:
                self.submitted(pdu, send, own)
            elif pdu.id == CommandId.enquire_link:
                send(EnquireLinkResp(seqNum=pdu.seqNum))
                tell(event="probed")
            elif pdu.id == CommandId.unbind:
                send(UnbindResp(seqNum=pdu.seqNum))
                tell(event="unbound")
            elif pdu.id == CommandId.enquire_link_resp:
                tell(event="alive")
            elif pdu.id == CommandId.deliver_sm_resp:
                tell(event="receipt", taken=pdu.status == CommandStatus.ESME_ROK)
            else:
                tell(event="strange", pdu=pdu.id.name)
            await writer.drain()

    def submitted(self, pdu, send, own):
        params = pdu.params
        to = params["destination_addr"].decode()
        if to.endswith("9") and to not in self.throttled:
            self.throttled.add(to)
            send(SubmitSMResp(seqNum=pdu.seqNum, status=CommandStatus.ESME_RTHROTTLED))
            return tell(event="throttled", to=to)
        self.next_id += 1
        number = self.next_id
        send(SubmitSMResp(seqNum=pdu.seqNum, message_id=b"%08X" % number))
        tell(
            event="submitted",
            to=to,
            sender=params["source_addr"].decode(),
            ton=[params["source_addr_ton"].name, params["dest_addr_ton"].name],
            octets=params["short_message"].hex(),
            coding=str(params["data_coding"].schemeData.name),
            features=sorted(feature.name for feature in params["esm_class"].gsmFeatures),
            receipt=params["registered_delivery"].receipt.name,
            validity=str(params["validity_period"]),
        )
        send(self.receipt(pdu, number, next(own)))

    def receipt(self, pdu, number, sequence):
        self.receipts += 1
        params = pdu.params
        told = dict(
            seqNum=sequence,
            source_addr_ton=AddrTon.INTERNATIONAL,
            source_addr_npi=AddrNpi.ISDN,
            source_addr=params["destination_addr"],
            dest_addr_ton=params["source_addr_ton"],
            dest_addr_npi=params["source_addr_npi"],
            destination_addr=params["source_addr"],
            esm_class=EsmClass(EsmClassMode.DEFAULT, EsmClassType.SMSC_DELIVERY_RECEIPT),
        )
        written = b"%010d" % number
        if self.receipts % 2:
            text = b"id:%s sub:001 dlvrd:001 submit date:2611270700 done date:2611270701 stat:DELIVRD err:000 text:"
            return DeliverSM(short_message=text % written, **told)
        return DeliverSM(
            short_message=b"", receipted_message_id=written, message_state=MessageState.DELIVERED, **told
        )


async def main():
    with open(sys.argv[1]) as file:
        carrier = Carrier(file.readline().rstrip("\n"))
    server = await asyncio.start_server(carrier.serve, "127.0.0.1", 0)
    tell(event="listening", port=server.sockets[0].getsockname()[1])
    await server.serve_forever()


asyncio.run(main())
