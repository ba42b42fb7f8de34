//! A connection: to a server, or, in the simulated world, to one that is a value.

use redis::{
    Cmd, Pipeline, RedisFuture, Value,
    aio::{ConnectionLike, ConnectionManager},
};

#[cfg(feature = "simulated")]
use super::simulated;

/// A connection for one piece of work.
#[derive(Clone)]
pub struct Connection(Kind);

#[derive(Clone)]
enum Kind {
    Server(ConnectionManager),
    #[cfg(feature = "simulated")]
    Simulated(simulated::Session),
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection").finish_non_exhaustive()
    }
}

impl Connection {
    pub(super) const fn server(manager: ConnectionManager) -> Self {
        Self(Kind::Server(manager))
    }

    #[cfg(feature = "simulated")]
    pub(super) const fn simulated(session: simulated::Session) -> Self {
        Self(Kind::Simulated(session))
    }
}

impl ConnectionLike for Connection {
    fn req_packed_command<'a>(&'a mut self, cmd: &'a Cmd) -> RedisFuture<'a, Value> {
        match &mut self.0 {
            Kind::Server(manager) => manager.req_packed_command(cmd),
            #[cfg(feature = "simulated")]
            Kind::Simulated(session) => Box::pin(session.command(cmd)),
        }
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        match &mut self.0 {
            Kind::Server(manager) => manager.req_packed_commands(pipeline, offset, count),
            #[cfg(feature = "simulated")]
            Kind::Simulated(session) => Box::pin(session.commands(pipeline, offset, count)),
        }
    }

    fn get_db(&self) -> i64 {
        match &self.0 {
            Kind::Server(manager) => manager.get_db(),
            #[cfg(feature = "simulated")]
            Kind::Simulated(_) => 0,
        }
    }
}
