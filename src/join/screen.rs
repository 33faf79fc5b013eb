//! What is read from the terminal and what is written to it.

use std::collections::HashMap;
use std::io::{self, Write};

use handover_client::{Ended, Json, Member, PeerId, ResetCause, RoomEvent, State};
use handover_protocol::wire::message::{LeaveReason, Quality};
use serde::Deserialize;

/// How much of a peer's id is shown of somebody without a name.
const SHORT_ID: usize = 6;

/// A line of input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Input<'a> {
    Nothing,
    Say(&'a str),
    SayTo(&'a str, &'a str),
    Members,
    Leave,
    Quit,
    Unknown(&'a str),
}

impl<'a> Input<'a> {
    pub(super) fn read(line: &'a str) -> Self {
        let line = line.trim();
        let (first, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        match first {
            "" => Input::Nothing,
            "/members" => Input::Members,
            "/leave" => Input::Leave,
            "/quit" => Input::Quit,
            "/to" => match rest.trim_start().split_once(char::is_whitespace) {
                Some((whom, text)) => Input::SayTo(whom, text.trim_start()),
                None => Input::Unknown("/to"),
            },
            _ if first.starts_with('/') => Input::Unknown(first),
            _ => Input::Say(line),
        }
    }
}

#[derive(Deserialize)]
struct Named {
    name: String,
}

#[derive(Deserialize)]
struct Said {
    kind: String,
    text: String,
}

/// The terminal's output side, and whom it has heard of.
#[derive(Debug)]
pub(super) struct Screen<W> {
    output: W,
    names: HashMap<PeerId, String>,
    me: Option<PeerId>,
}

impl<W: Write> Screen<W> {
    pub(super) fn new(output: W) -> Self {
        Screen { output, names: HashMap::new(), me: None }
    }

    /// The first thing shown.
    pub(super) fn began(
        &mut self,
        room: &str,
        state: &State,
        members: Vec<Member>,
    ) -> io::Result<()> {
        writeln!(self.output, "* in {room}; /members, /to NAME TEXT, /leave, /quit")?;
        self.state(state)?;
        self.members(members)
    }

    pub(super) fn note(&mut self, text: &str) -> io::Result<()> {
        writeln!(self.output, "* {}", printable(text))
    }

    pub(super) fn state(&mut self, state: &State) -> io::Result<()> {
        match state {
            State::Live { transport, peer, resumed, .. } => {
                self.me = Some(*peer);
                let how = if *resumed { "back" } else { "connected" };
                self.note(&format!("{how} over {}", transport.name()))
            }
            State::Connecting | State::Reconnecting => self.note("reconnecting"),
            State::Ended(why) => self.note(&describe_end(why)),
        }
    }

    pub(super) fn quality(&mut self, quality: &Quality) -> io::Result<()> {
        let Quality { rtt, jitter, loss, level } = quality;
        let percent = loss * 100.0;
        self.note(&format!("path {level:?}: {rtt:.0} ms ± {jitter:.0} ms, {percent:.1} % lost"))
    }

    pub(super) fn members(&mut self, members: Vec<Member>) -> io::Result<()> {
        for member in members {
            self.meet(&member);
            let name = self.name(member.peer);
            let me = if Some(member.peer) == self.me { " (this is you)" } else { "" };
            let away = if member.away { " (away)" } else { "" };
            let metadata = printable(member.metadata.as_str());
            writeln!(self.output, "  {name}{me}{away}  {}  {metadata}", member.peer)?;
        }
        Ok(())
    }

    pub(super) fn event(&mut self, event: RoomEvent) -> io::Result<()> {
        match event {
            RoomEvent::Message { from, to, body, .. } => {
                let name = self.name(from);
                let to_me = if to.is_some() { " (to you)" } else { "" };
                match body.to_value::<Said>() {
                    Ok(said) if said.kind == "chat" => {
                        writeln!(self.output, "{name}{to_me}: {}", printable(&said.text))
                    }
                    _ => self.note(&format!("{name}{to_me} sent {}", body.as_str())),
                }
            }
            RoomEvent::Ephemeral { from, body } => {
                let name = self.name(from);
                self.note(&format!("{name} passes on {}", body.as_str()))
            }
            RoomEvent::Joined(member) => {
                self.meet(&member);
                let name = self.name(member.peer);
                self.note(&format!("{name} joined"))
            }
            RoomEvent::Updated(peer, metadata) => {
                let before = self.name(peer);
                self.call(peer, &metadata);
                self.note(&format!("{before} is now {}", metadata.as_str()))
            }
            RoomEvent::Left(peer, reason) => {
                let name = self.name(peer);
                self.names.remove(&peer);
                self.note(&format!("{name} left{}", describe_leaving(reason)))
            }
            RoomEvent::Away(peer) => {
                let name = self.name(peer);
                self.note(&format!("{name} is away"))
            }
            RoomEvent::Back(peer) => {
                let name = self.name(peer);
                self.note(&format!("{name} is back"))
            }
            RoomEvent::Reset(cause, members) => {
                self.note(describe_reset(cause))?;
                self.names.clear();
                self.members(members)
            }
            RoomEvent::Lost { code, message } => self.note(&format!("{code}: {message}")),
        }
    }

    /// Whom a name stands for; ids work too.
    pub(super) fn find(&self, whom: &str) -> Option<PeerId> {
        let named = self.names.iter().find(|(peer, name)| {
            Some(**peer) != self.me && (name.as_str() == whom || peer.as_str() == whom)
        });
        named.map(|(peer, _)| *peer)
    }

    fn meet(&mut self, member: &Member) {
        self.call(member.peer, &member.metadata);
    }

    fn call(&mut self, peer: PeerId, metadata: &Json) {
        let short = || peer.as_str().chars().take(SHORT_ID).collect();
        let name = metadata.to_value::<Named>().map(|named| printable(&named.name));
        let name = name.ok().filter(|name| !name.is_empty()).unwrap_or_else(short);
        self.names.insert(peer, name);
    }

    fn name(&self, peer: PeerId) -> String {
        self.names.get(&peer).cloned().unwrap_or_else(|| peer.to_string())
    }
}

/// Others choose this text: it must not move the cursor or ring the bell.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

fn describe_leaving(reason: LeaveReason) -> &'static str {
    match reason {
        LeaveReason::Left => "",
        LeaveReason::Bye => " and is gone",
        LeaveReason::Expired => ": no connection for too long",
        LeaveReason::Kicked => ": sent away",
    }
}

fn describe_reset(cause: ResetCause) -> &'static str {
    match cause {
        ResetCause::Gateway(_) => "something was missed that is no longer kept; now here:",
        ResetCause::Rejoined => "the membership was lost; joined again; now here:",
        ResetCause::NewSession => "the gateway had forgotten the session; joined again; now here:",
        ResetCause::Lagged => "this terminal was too slow; now here:",
    }
}

pub(super) fn describe_end(why: &Ended) -> String {
    match why {
        Ended::Bye => "closed".to_owned(),
        Ended::Closed { code, reason } => format!("{reason} ({code})"),
        Ended::Refused { code, message } => format!("{code}: {message}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_chat_unless_they_start_with_a_slash() {
        assert_eq!(Input::read("  hello there "), Input::Say("hello there"));
        assert_eq!(Input::read(""), Input::Nothing);
        assert_eq!(Input::read("/members"), Input::Members);
        assert_eq!(Input::read("/to Ann  hi there"), Input::SayTo("Ann", "hi there"));
        assert_eq!(Input::read("/to Ann"), Input::Unknown("/to"));
        assert_eq!(Input::read("/dance now"), Input::Unknown("/dance"));
        assert_eq!((Input::read("/leave"), Input::read("/quit")), (Input::Leave, Input::Quit));
    }

    #[test]
    fn names_of_others_cannot_write_over_the_terminal() {
        let mut output = Vec::new();
        let mut screen = Screen::new(&mut output);
        let peer = PeerId::parse("abcdefgh").unwrap();
        let metadata = Json::parse(br#"{"name":"\u001b[2Jx"}"#).unwrap();
        let member = Member { peer, user: None, metadata, since: 1, away: false };
        screen.event(RoomEvent::Joined(member)).unwrap();
        assert!(!String::from_utf8(output).unwrap().contains('\u{1b}'));
    }

    #[test]
    fn who_has_no_name_goes_by_the_id() {
        let mut screen = Screen::new(Vec::new());
        let peer = PeerId::parse("abcdefgh").unwrap();
        screen.call(peer, &Json::empty_object());
        assert_eq!(screen.name(peer), "abcdef");
        assert_eq!(screen.find("abcdef"), Some(peer));
        assert_eq!(screen.find("abcdefgh"), Some(peer));
    }
}
