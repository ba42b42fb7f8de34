//! The owner's invitation: redeemed once, in time, by who has its text.

use std::{fs, os::unix::fs::PermissionsExt as _, time::Duration};

use futures::future::join_all;
use sotto_crypto::sign::SigningKey;
use sotto_proto::identity::v1::{
    ClientAuthentication, ListClientsRequest, RedeemInvitationRequest, client_authentication::Method,
};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::{
    tokens::{bearing, owner_token},
    world::{INVITATION, Key, NOW, Running, World, with_key, with_secret},
};

const WEEK: Duration = Duration::from_secs(7 * 86_400);
const REFUSED: &str = "invitation.refused invitation_refused";

async fn redeem(running: &Running, text: &str) -> Result<Key, Status> {
    let key = SigningKey::generate().unwrap();
    let authentication = Some(with_key(&key));
    let request = RedeemInvitationRequest { invitation: text.to_owned(), authentication };
    let redeemed = running.grpc().redeem_invitation(request).await?.into_inner();
    assert_eq!(redeemed.client_secret, "");
    Ok(Key::new(redeemed.client.unwrap().client_id, key))
}

fn refused(redeemed: Result<Key, Status>) -> String {
    let status = redeemed.err().unwrap();
    let reason = status.get_details_error_info().unwrap().reason;
    assert_eq!(
        (status.code(), reason.as_str()),
        (Code::PermissionDenied, "INVITATION_REFUSED"),
        "{status:?}"
    );
    status.message().to_owned()
}

/// How many clients there are, told to an owner.
async fn clients(world: &World, running: &Running, owner: &Key) -> usize {
    let token = owner_token(world, running, owner).await;
    let listed = running.grpc().list_clients(bearing(ListClientsRequest::default(), &token)).await;
    listed.unwrap().into_inner().clients.len()
}

#[tokio::test]
async fn it_is_redeemed_once_also_when_many_try_at_once_and_after_a_restart() {
    let world = World::new().await;
    let running = world.start().await;
    world.told.take();
    let (mut owners, mut refusals) = (Vec::new(), 0);
    for redeemed in join_all((0..8).map(|_| redeem(&running, INVITATION))).await {
        match redeemed {
            Ok(owner) => owners.push(owner),
            lost => {
                assert_eq!(refused(lost), "the invitation was redeemed before");
                refusals += 1;
            }
        }
    }
    assert_eq!((owners.len(), refusals), (1, 7));
    let mut told = world.told.take();
    told.sort_unstable();
    assert_eq!(told, [&["invitation.redeemed ok"][..], &[REFUSED; 7]].concat());
    assert_eq!(clients(&world, &running, &owners[0]).await, 1);

    // The file is still there, and another one with the same text is no better.
    running.stop().await;
    world.invite(INVITATION, NOW.plus(2 * WEEK));
    let running = world.start().await;
    assert_eq!(refused(redeem(&running, INVITATION).await), "the invitation was redeemed before");
    assert_eq!(clients(&world, &running, &owners[0]).await, 1);

    // An operator who lost the owner's key makes another; it needs no restart.
    world.invite("the second", NOW.plus(WEEK));
    let second = redeem(&running, "the second").await.unwrap();
    assert_ne!(second.id, owners[0].id);
    assert_eq!(clients(&world, &running, &second).await, 2);
}

#[tokio::test]
async fn only_the_text_in_time_counts() {
    let world = World::new().await;
    let running = world.start().await;
    world.told.take();
    let wrongs = ["", "sotto-invitation-c0ffef", " sotto-invitation-c0ffee", &INVITATION.repeat(20)];
    for wrong in wrongs {
        assert_eq!(refused(redeem(&running, wrong).await), "the invitation is not valid", "{wrong}");
    }
    world.clock.set(NOW.plus(WEEK));
    assert_eq!(refused(redeem(&running, INVITATION).await), "the invitation has expired");
    // Who does not have the text does not learn that there was one.
    assert_eq!(refused(redeem(&running, wrongs[1]).await), "the invitation is not valid");
    assert_eq!(world.told.take(), [REFUSED; 6]);

    world.clock.set(NOW.plus(WEEK - Duration::from_millis(1)));
    let owner = redeem(&running, INVITATION).await.unwrap();
    assert_eq!(world.told.take(), ["invitation.redeemed ok"]);
    assert_eq!(clients(&world, &running, &owner).await, 1);
    fs::remove_file(world.path("invitation.json")).unwrap();
    assert_eq!(refused(redeem(&running, INVITATION).await), "the invitation is not valid");
}

#[tokio::test]
async fn a_request_with_bad_fields_does_not_use_it_up() {
    let world = World::new().await;
    let running = world.start().await;
    for (authentication, field) in [
        (None, "authentication"),
        (Some(ClientAuthentication { method: None }), "authentication"),
        (
            Some(ClientAuthentication { method: Some(Method::GenerateSecret(false)) }),
            "authentication.generate_secret",
        ),
        (
            Some(ClientAuthentication { method: Some(Method::PublicJwk("key".to_owned())) }),
            "authentication.public_jwk",
        ),
    ] {
        for invitation in [INVITATION, "another"] {
            let authentication = authentication.clone();
            let request = RedeemInvitationRequest { invitation: invitation.to_owned(), authentication };
            let status = running.grpc().redeem_invitation(request).await.unwrap_err();
            assert_eq!(status.code(), Code::InvalidArgument);
            let wrong = status.get_details_bad_request().unwrap().field_violations;
            assert_eq!(wrong.len(), 1, "{wrong:?}");
            assert_eq!(wrong[0].field, field, "and nothing about the invitation");
        }
    }
    redeem(&running, INVITATION).await.unwrap();
}

#[tokio::test]
async fn a_file_that_others_may_write_or_nobody_can_read_makes_no_owner() {
    let world = World::new().await;
    let running = world.start().await;
    world.told.take();
    let path = world.path("invitation.json");
    let sound = fs::read_to_string(&path).unwrap();
    let mode = |mode| fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    let internal = async || {
        let status = redeem(&running, INVITATION).await.err().unwrap();
        assert_eq!(status.code(), Code::Internal, "{status:?}");
        assert_eq!(status.message(), "the request failed: see identity's log", "no path, no content");
    };
    for writable in [0o620, 0o602] {
        mode(writable);
        internal().await;
    }
    mode(0o600);
    for unreadable in ["", &sound[..40], "{}", &sound.replace("hash", "hush")] {
        fs::write(&path, unreadable).unwrap();
        internal().await;
    }
    assert_eq!(world.told.take(), Vec::<String>::new());
    fs::write(&path, &sound).unwrap();
    let request =
        RedeemInvitationRequest { invitation: INVITATION.to_owned(), authentication: Some(with_secret()) };
    let redeemed = running.grpc().redeem_invitation(request).await.unwrap().into_inner();
    assert!(redeemed.client_secret.starts_with("sotto_dev_"));
}
