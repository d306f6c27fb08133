//! What is asked on the control socket, and the answers: one JSON document each.

use serde::Deserialize;
use serde_json::json;

use crate::{
    clock::Now,
    limits::CONTROL_REQUEST_BYTES_MAX,
    net::control::{Asker, Request},
    record::SetAsideId,
};

use super::{EventLoop, quarantine::Fate};

/// What can be asked for.
#[derive(Debug, PartialEq, Eq)]
enum Command {
    /// How everything is doing.
    Status,
    /// Something that was set aside is to be stored again, or dropped.
    Resolve(SetAsideId, Fate),
}

/// A request as it stands on the wire.
#[derive(Deserialize)]
struct Line {
    command: String,
    id: Option<String>,
}

impl EventLoop {
    /// Answers what was asked; in the turn it came in.
    pub(super) fn serve_control(&mut self, now: Now) {
        if let Some(control) = &mut self.control {
            control.handle_timeout(self.poll.registry(), now.mono);
        }
        while let Some((asker, request)) = self.control.as_mut().and_then(|control| control.poll_request()) {
            match parse(&request) {
                Ok(command) => self.obey(command, asker, now),
                Err(words) => self.answer_control(asker, &json!({ "error": words }).to_string(), now),
            }
        }
    }

    fn obey(&mut self, command: Command, asker: Asker, now: Now) {
        match command {
            Command::Status => {
                let document = serde_json::to_string(&self.report(now))
                    .unwrap_or_else(|error| json!({ "error": error.to_string() }).to_string());
                self.answer_control(asker, &document, now);
            }
            Command::Resolve(id, fate) => {
                let document = match self.resolve(id, fate, now) {
                    Ok(readings) => json!({ "readings": readings }),
                    Err(words) => json!({ "error": words }),
                };
                self.answer_control(asker, &document.to_string(), now);
            }
        }
    }

    fn answer_control(&mut self, asker: Asker, document: &str, now: Now) {
        if let Some(control) = &mut self.control {
            control.answer(asker, document, self.poll.registry(), now.mono);
        }
    }
}

/// The command in a request.
///
/// # Errors
/// What is wrong with it, for the other side to show.
fn parse(request: &Request) -> Result<Command, String> {
    let Request::Line(line) = request else {
        return Err(format!("a request has at most {CONTROL_REQUEST_BYTES_MAX} bytes"));
    };
    let line: Line = serde_json::from_slice(line)
        .map_err(|error| format!("not a request, which is {{\"command\":NAME}}: {error}"))?;
    match line.command.as_str() {
        "status" => Ok(Command::Status),
        "quarantine retry" => Ok(Command::Resolve(named(&line)?, Fate::Retry)),
        "quarantine drop" => Ok(Command::Resolve(named(&line)?, Fate::Drop)),
        other => Err(format!(
            "this version of forebay has no command {other:?}; it has status, quarantine retry and quarantine drop"
        )),
    }
}

fn named(line: &Line) -> Result<SetAsideId, String> {
    let id = line.id.as_deref().ok_or_else(|| format!("{} needs an id", line.command))?;
    id.parse().map_err(|words| format!("{id:?} is {words}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &[u8]) -> Result<Command, String> {
        parse(&Request::Line(line.to_vec()))
    }

    #[test]
    fn a_command_is_found_by_its_name_whatever_stands_beside_it() {
        assert_eq!(parsed(br#"{"command":"status"}"#), Ok(Command::Status));
        assert_eq!(parsed(b" {\"command\" : \"status\", \"more\": [1]}\r"), Ok(Command::Status));
    }

    #[test]
    fn what_was_set_aside_is_named() {
        let retry = Command::Resolve(SetAsideId::Payload(3), Fate::Retry);
        assert_eq!(parsed(br#"{"command":"quarantine retry","id":"p3"}"#), Ok(retry));
        let words = parsed(br#"{"command":"quarantine drop"}"#).expect_err("which?");
        assert_eq!(words, "quarantine drop needs an id");
        let words = parsed(br#"{"command":"quarantine drop","id":"3"}"#).expect_err("which?");
        assert!(words.starts_with("\"3\" is not a name like p1"), "{words}");
    }

    #[test]
    fn what_is_no_command_is_told_why() {
        let unknown = parsed(br#"{"command":"dance"}"#).expect_err("unknown");
        assert!(unknown.contains("no command \"dance\""), "{unknown}");
        for line in [&b""[..], b"status", b"{}", b"{\"command\":1}", b"\xFF\xFE", b"[[[[[["] {
            let words = parsed(line).expect_err("no request");
            assert!(words.starts_with("not a request"), "{words}");
        }
        assert!(parse(&Request::TooLong).expect_err("too long").contains("1024 bytes"));
    }
}
