//! `sotto top`: what the cell does now, looked at again and again.

mod page;
mod view;

use std::{io::IsTerminal as _, time::Duration};

use futures::future::join_all;
use jiff::Timestamp;
use tokio::time::{Instant, sleep_until};

use self::{
    page::Page,
    view::{Looks, Pages, View},
};
use crate::{
    CliError, Output,
    cell::{CellDir, Running, SERVICES},
    http,
};

/// The most of a page of metrics that is read.
const LARGEST: usize = 16 << 20;

/// Rows where the terminal does not say how many it has.
const ROWS: usize = 50;

/// Clears a terminal.
const CLEAR: &str = "\x1b[H\x1b[2J";

/// `sotto top`
#[derive(Clone, Copy, Debug, clap::Args)]
pub(crate) struct Top {
    /// Seconds between two looks, 1 to 60; rates are of the time between them
    #[arg(long, default_value = "2", value_parser = clap::value_parser!(u64).range(1..=60))]
    every: u64,
    /// Show one frame, and end
    #[arg(long)]
    once: bool,
}

/// Looks until Ctrl-C.
pub(crate) async fn top(dir: &CellDir, top: Top, output: &Output) -> Result<(), CliError> {
    let every = Duration::from_secs(top.every);
    let live = !top.once && !output.is_json() && std::io::stdout().is_terminal();
    let mut at = Instant::now();
    let mut before = look(&dir.running()?).await;
    loop {
        sleep_until(at + every).await;
        let began = Instant::now();
        // Read each time: processes that were started anew may have other addresses.
        let now = look(&dir.running()?).await;
        let view = View::of(&Looks { before: &before, now: &now, apart: (began - at).as_secs_f64() });
        output.json(&view.to_json())?;
        let title = format!(
            "sotto {}   {}   every {} s",
            dir.open()?.id,
            Timestamp::now().strftime("%H:%M:%SZ"),
            top.every
        );
        let frame = view.lines(&title, if live { rows() } else { usize::MAX }, output).join("\n");
        output.line(if live { format!("{CLEAR}{frame}") } else { frame })?;
        if top.once {
            return Ok(());
        }
        (at, before) = (began, now);
    }
}

/// The pages of those services that answer.
async fn look(running: &Running) -> Pages {
    let pages = SERVICES.map(async |service| {
        let address = running.address(&format!("{service}.admin")).ok()?;
        let (status, body) = http::get_large(address, "/metrics", LARGEST).await.ok()?;
        status.is_success().then(|| (service, Page::parse(&String::from_utf8_lossy(&body))))
    });
    join_all(pages).await.into_iter().flatten().collect()
}

/// Rows of the terminal.
fn rows() -> usize {
    let size = rustix::termios::tcgetwinsize(std::io::stdout());
    size.map(|size| usize::from(size.ws_row)).ok().filter(|rows| *rows > 0).unwrap_or(ROWS)
}
