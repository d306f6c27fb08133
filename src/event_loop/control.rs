//! What is asked on the control socket, and the answers: one JSON document each.

use serde::Deserialize;
use serde_json::json;

use crate::{
    clock::Now,
    limits::CONTROL_REQUEST_BYTES_MAX,
    net::control::{Asker, Request},
};

use super::EventLoop;

/// What can be asked for.
#[derive(Debug, PartialEq, Eq)]
enum Command {
    /// How everything is doing.
    Status,
}

/// A request as it stands on the wire.
#[derive(Deserialize)]
struct Line {
    command: String,
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
        other => Err(format!("this version of forebay has no command {other:?}; it has status")),
    }
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
