"""A client by smpplib over TLS: binds, sends, waits for the receipt of each part and unbinds. Nothing in it is Sotto's.

    client_smpplib.py HOST PORT PASSWORD_FILE CA_FILE < {"to": "text", …}

Prints one JSON object a line. smpplib checks the certificate's authority, but has no way to check its name.
"""

import json
import ssl
import sys

import smpplib.client
import smpplib.consts
import smpplib.gsm

host, port, password_file, ca_file = sys.argv[1:]


def tell(**what):
    print(json.dumps(what), flush=True)


with open(password_file) as file:
    password = file.readline().rstrip("\n")
context = ssl.create_default_context(cafile=ca_file)
context.check_hostname = False
client = smpplib.client.Client(host, port, ssl_context=context, allow_unknown_opt_params=True)
answered, receipted = {}, []


def answer(pdu):
    answered[pdu.sequence] = pdu.message_id.decode()


def receipt(pdu):
    receipted.append(pdu.receipted_message_id.decode())
    text = pdu.short_message.decode("ascii")
    tell(event="receipt", id=receipted[-1], delivered="stat:DELIVRD" in text, state=pdu.message_state)


client.set_message_sent_handler(answer)
client.set_message_received_handler(receipt)
client.connect()
client.bind_transceiver(system_id="peer", password=password)
sent = 0
for to, text in json.load(sys.stdin).items():
    parts, coding, esm_class = smpplib.gsm.make_parts(text)
    for part in parts:
        client.send_message(
            source_addr_ton=smpplib.consts.SMPP_TON_ALNUM,
            source_addr="ACMEBANK",
            dest_addr_ton=smpplib.consts.SMPP_TON_INTL,
            dest_addr_npi=smpplib.consts.SMPP_NPI_ISDN,
            destination_addr=to,
            short_message=part,
            data_coding=coding,
            esm_class=esm_class,
            registered_delivery=True,
        )
        sent += 1
while len(answered) < sent or not set(answered.values()) <= set(receipted):
    client.read_once()
client.send_pdu(smpplib.smpp.make_pdu("enquire_link", client=client))
alive = client.read_pdu().command
unbound = client.unbind().command
client.disconnect()
tell(event="done", sent=sent, receipts=len(receipted), alive=alive, unbound=unbound)
