#!/usr/bin/perl
# A carrier by Net::SMPP (Debian's libnet-smpp-perl), a codec in Perl from 2001: nothing in it is Sotto's.
#
#   carrier_net_smpp.pl PASSWORD_FILE
#
# Prints one JSON object a line: its port first, then what happened. It takes a transmitter and a receiver. Ids are
# hexadecimal in answers and decimal with leading zeros in receipts; these are told by text alone, and nothing but the
# text marks them: esm_class is 0.
use strict;
use warnings;
use IO::Select;
use JSON::PP;
use Net::SMPP;

use constant {
    BIND_RECEIVER => 0x01, BIND_TRANSMITTER => 0x02, SUBMIT_SM => 0x04, UNBIND => 0x06, ENQUIRE_LINK => 0x15,
    DELIVER_SM_RESP => 0x80000005, ENQUIRE_LINK_RESP => 0x80000015,
    WRONG_PASSWORD => 0x0E,
};

$| = 1;
my $json = JSON::PP->new->canonical;
sub tell_what { my %what = @_; print $json->encode(\%what), "\n" }

open my $file, '<', $ARGV[0] or die "the password file: $!";
chomp(my $password = <$file>);
my $listener = Net::SMPP->new_listen('127.0.0.1', port => 0, smpp_version => 0x34) or die "cannot listen: $!";
tell_what(event => 'listening', port => $listener->sockport);
my $all = IO::Select->new($listener);
my ($receiver, @waiting);
my $next = 0xAB00;

sub deliver {
    while ($receiver and my $receipt = shift @waiting) {
        $receiver->deliver_sm(async => 1, %$receipt);
    }
}

sub bind_of {
    my ($link, $pdu, $kind) = @_;
    my $answer = "bind_${kind}_resp";
    my $good = $pdu->{password} eq $password;
    $link->$answer(seq => $pdu->{seq}, status => $good ? 0 : WRONG_PASSWORD, system_id => 'perl');
    tell_what(event => 'bound', kind => $kind) if $good;
    $link->enquire_link(async => 1) if $good;
    $receiver = $link if $good and $kind eq 'receiver';
    deliver();
}

sub submitted {
    my ($link, $pdu) = @_;
    my $id = $next++;
    $link->submit_sm_resp(seq => $pdu->{seq}, message_id => sprintf '%X', $id);
    tell_what(
        event => 'submitted',
        to => $pdu->{destination_addr},
        sender => $pdu->{source_addr},
        coding => $pdu->{data_coding},
        octets => unpack('H*', $pdu->{short_message}),
    );
    push @waiting, {
        source_addr_ton => 1, source_addr_npi => 1, source_addr => $pdu->{destination_addr},
        dest_addr_ton => 5, dest_addr_npi => 0, destination_addr => $pdu->{source_addr},
        short_message => sprintf(
            'id:%010d sub:001 dlvrd:001 submit date:2611270700 done date:2611270701 stat:DELIVRD err:000 text:', $id
        ),
    };
    deliver();
}

sub serve {
    my ($link) = @_;
    my $pdu = $link->read_pdu;
    if (!$pdu) {
        $all->remove($link);
        close $link;
        $receiver = undef if $receiver and $receiver == $link;
        return tell_what(event => 'closed');
    }
    my $command = $pdu->{cmd};
    if ($command == BIND_RECEIVER) { bind_of($link, $pdu, 'receiver') }
    elsif ($command == BIND_TRANSMITTER) { bind_of($link, $pdu, 'transmitter') }
    elsif ($command == SUBMIT_SM) { submitted($link, $pdu) }
    elsif ($command == ENQUIRE_LINK) {
        $link->enquire_link_resp(seq => $pdu->{seq});
        tell_what(event => 'probed');
    }
    elsif ($command == UNBIND) {
        $link->unbind_resp(seq => $pdu->{seq});
        tell_what(event => 'unbound');
    }
    elsif ($command == ENQUIRE_LINK_RESP) { tell_what(event => 'alive') }
    elsif ($command == DELIVER_SM_RESP) {
        tell_what(event => 'receipt', taken => $pdu->{status} ? JSON::PP::false : JSON::PP::true);
    }
    else { tell_what(event => 'strange', pdu => $pdu->explain_cmd) }
}

while (1) {
    for my $ready ($all->can_read) {
        if ($ready == $listener) { $all->add($listener->accept) }
        else { serve($ready) }
    }
}
