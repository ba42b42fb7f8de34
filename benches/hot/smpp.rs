//! What goes to a carrier and what comes back, as octets.

use std::hint::black_box;

use bytes::{Bytes, BytesMut};
use criterion::Criterion;
use sotto_smpp::{
    Address, COctets, Command, CommandStatus, Framing, Pdu, Receipt, Sm, SmResp, Tlvs, pdu::esm_class,
};
use tokio_util::codec::{Decoder as _, Encoder as _};

fn address(ton: u8, npi: u8, value: &'static str) -> Address {
    Address { ton, npi, value: COctets::from(value) }
}

fn submit() -> Command {
    let message = Sm {
        source: address(5, 0, "ACMEBANK"),
        destination: address(1, 1, "84912345678"),
        validity_period: COctets::from("261128140000000+"),
        registered_delivery: 1,
        data_coding: 8,
        short_message: Bytes::from_static(&[0x20; 106]),
        ..Sm::default()
    };
    Command { status: CommandStatus::ESME_ROK, sequence: 1, pdu: Pdu::SubmitSm(Box::new(message)) }
}

fn receipt() -> Sm {
    let text = "id:0A1B2C3D sub:001 dlvrd:001 submit date:2611281400 done date:2611281401 stat:DELIVRD err:000 text:";
    Sm {
        source: address(1, 1, "84912345678"),
        destination: address(5, 0, "ACMEBANK"),
        esm_class: esm_class::RECEIPT,
        short_message: Bytes::from_static(text.as_bytes()),
        ..Sm::default()
    }
}

fn wire(command: &Command) -> BytesMut {
    let mut octets = BytesMut::new();
    Framing::default().encode(command, &mut octets).unwrap();
    octets
}

pub(crate) fn benches(criterion: &mut Criterion) {
    let submit = submit();
    let answer = SmResp { message_id: COctets::from("0A1B2C3D"), tlvs: Tlvs::default() };
    let answer = Command { status: CommandStatus::ESME_ROK, sequence: 1, pdu: Pdu::SubmitSmResp(answer) };
    let receipt = receipt();
    let deliver = Command { pdu: Pdu::DeliverSm(Box::new(receipt.clone())), ..answer.clone() };

    criterion.bench_function("smpp/encode submit_sm", |bench| {
        let mut octets = BytesMut::with_capacity(1 << 10);
        bench.iter(|| {
            octets.clear();
            black_box(&submit).encode(&mut octets)
        });
    });
    for (name, command) in
        [("submit_sm", &submit), ("submit_sm_resp", &answer), ("deliver_sm (a receipt)", &deliver)]
    {
        let octets = wire(command);
        criterion.bench_function(&format!("smpp/decode {name}"), |bench| {
            bench.iter(|| {
                let raw = Framing::default().decode(&mut black_box(&octets).clone()).unwrap().unwrap();
                raw.decode().unwrap()
            });
        });
    }
    criterion
        .bench_function("smpp/parse a receipt", |bench| bench.iter(|| Receipt::parse(black_box(&receipt))));
}
