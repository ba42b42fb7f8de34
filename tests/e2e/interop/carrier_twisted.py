"""A carrier by smpp.twisted3, the SMPP server inside Jasmin, over its own TLS: nothing in it is Sotto's.

    carrier_twisted.py PASSWORD_FILE CERTIFICATE KEY

Prints one JSON object a line: its port first, then what happened. Its ids are UUIDs; receipts write them in capitals
and without hyphens. On SIGHUP it unbinds everybody in order.
"""

import json
import signal
import sys
import uuid

from smpp.pdu.operations import DeliverSM
from smpp.pdu.pdu_types import CommandId, CommandStatus, EsmClass, EsmClassMode, EsmClassType
from smpp.twisted.config import SMPPServerConfig
from smpp.twisted.protocol import DataHandlerResponse, SMPPServerProtocol
from smpp.twisted.server import SMPPServerFactory
from twisted.cred.checkers import ICredentialsChecker
from twisted.cred.credentials import IUsernamePassword
from twisted.cred.error import UnauthorizedLogin
from twisted.cred.portal import IRealm, Portal
from twisted.internet import reactor, ssl
from zope.interface import implementer

RECEIPT = "id:%s sub:001 dlvrd:001 submit date:2611270700 done date:2611270701 stat:DELIVRD err:000 text:"


def tell(**what):
    print(json.dumps(what), flush=True)


@implementer(IRealm)
class Realm:
    def requestAvatar(self, avatar_id, mind, *interfaces):
        return interfaces[0], avatar_id, lambda: None


@implementer(ICredentialsChecker)
class Checker:
    credentialInterfaces = (IUsernamePassword,)

    def requestAvatarId(self, credentials):
        if credentials.checkPassword(password):
            return credentials.username
        raise UnauthorizedLogin


class Session(SMPPServerProtocol):
    def PDURequestReceived(self, pdu):
        super().PDURequestReceived(pdu)
        if pdu.id in (CommandId.enquire_link, CommandId.unbind):
            tell(event={"enquire_link": "probed", "unbind": "unbound"}[pdu.id.name])

    def PDUResponseReceived(self, pdu):
        super().PDUResponseReceived(pdu)
        if pdu.id == CommandId.enquire_link_resp:
            tell(event="alive")

    def bound(self):
        tell(event="bound", kind=self.bind_type.name)


class Factory(SMPPServerFactory):
    protocol = Session

    def addBoundConnection(self, connection):
        super().addBoundConnection(connection)
        connection.bound()


def submitted(system_id, session, pdu):
    if pdu.id != CommandId.submit_sm:
        tell(event="strange", pdu=pdu.id.name)
        return CommandStatus.ESME_RINVCMDID
    params, number = pdu.params, uuid.uuid4()
    tell(
        event="submitted",
        to=params["destination_addr"].decode(),
        sender=params["source_addr"].decode(),
        coding=params["data_coding"].schemeData.name,
        octets=params["short_message"].hex(),
    )
    receipt = DeliverSM(
        source_addr=params["destination_addr"],
        destination_addr=params["source_addr"],
        esm_class=EsmClass(EsmClassMode.DEFAULT, EsmClassType.SMSC_DELIVERY_RECEIPT),
        short_message=(RECEIPT % number.hex.upper()).encode(),
    )
    # Over any of the binds, as an SMSC does; after the answer.
    reactor.callLater(0, deliver, system_id, receipt)
    return DataHandlerResponse(status=CommandStatus.ESME_ROK, message_id=str(number).encode())


def deliver(system_id, receipt):
    binds = factory.getBoundConnections(system_id)
    bind = binds and binds.getNextBindingForDelivery()
    if not bind:
        return reactor.callLater(0.1, deliver, system_id, receipt)
    bind.sendRequest(receipt, 30).addCallbacks(
        lambda _: tell(event="receipt", taken=True), lambda why: tell(event="receipt", taken=False, why=str(why))
    )


def unbind_all(*_):
    reactor.callFromThread(factory.unbindGateway, "sotto")


password_file, certificate, key = sys.argv[1:]
with open(password_file) as file:
    password = file.readline().rstrip("\n")
config = SMPPServerConfig(systems={"sotto": {"max_bindings": 2}}, msgHandler=submitted, enquireLinkTimerSecs=1)
factory = Factory(config, Portal(Realm(), [Checker()]))
listener = reactor.listenSSL(
    0, factory, ssl.DefaultOpenSSLContextFactory(key, certificate), interface="127.0.0.1"
)
signal.signal(signal.SIGHUP, unbind_all)
tell(event="listening", port=listener.getHost().port)
reactor.run()
