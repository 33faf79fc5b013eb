//! Says every line of the input to a room, and prints what the others say.
//!
//! Against a gateway that runs on this machine with its defaults:
//! `cargo run -p handover-client --example chat -- http://localhost:8080 lobby`

use std::error::Error;

use handover_client::{Client, LogLane, Options, RoomEvent};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, BufReader};

#[derive(Serialize, Deserialize)]
struct Chat {
    kind: String,
    text: String,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let url = arguments.next().ok_or("usage: chat URL [ROOM]")?;
    let room = arguments.next().unwrap_or_else(|| "lobby".to_owned());
    let client = Client::connect(&url, Options::default()).await?;
    let room = client.join(&room, None).await?;

    // Sending waits for the gateway, listening must not wait for sending: a task each.
    let listening = tokio::spawn({
        let room = room.clone();
        async move {
            while let Some(event) = room.next_event().await {
                if let RoomEvent::Message { from, body, .. } = event
                    && let Ok(chat) = body.to_value::<Chat>()
                {
                    println!("{from}: {}", chat.text);
                }
            }
        }
    });
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    while let Some(text) = lines.next_line().await? {
        let chat = Chat { kind: "chat".to_owned(), text };
        room.send_value(LogLane::Bulk, &chat).await?;
    }
    client.close().await;
    listening.await?;
    Ok(())
}
