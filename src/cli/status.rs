//! `forebay status`: asks the running broker how it is doing, over the control socket.

use std::{
    io::{self, Read as _, Write as _},
    os::unix::net::UnixStream,
    path::Path,
    time::Duration,
};

use clap::Args;
use forebay::{net::control::control_path, report::Report};

use super::{Failure, GlobalArguments, output::print_line, settings::Surroundings, status_text};

/// How long to wait for the broker; a card that stalls holds it up for as long.
const PATIENCE: Duration = Duration::from_secs(10);
/// More than any answer has.
const ANSWER_BYTES_MAX: u64 = 1 << 20;

/// Flags of `forebay status`.
#[derive(Args, Clone, Debug, Default)]
pub struct StatusArguments {
    /// As a JSON document
    #[arg(long)]
    pub json: bool,
}

/// Shows how the broker is doing.
///
/// # Errors
/// If it cannot be asked; [`Failure::Unwell`], after its report was shown, if something is wrong with it.
pub fn run(global: &GlobalArguments, arguments: &StatusArguments) -> Result<(), Failure> {
    let surroundings = Surroundings::of_this_process();
    let config = surroundings.config(global)?;
    let data_dir = surroundings.data_dir(global, &config)?;
    let document = ask(&data_dir, r#"{"command":"status"}"#)?;
    let report: Report = serde_json::from_str(&document)
        .map_err(|error| Failure::Failed(format!("the broker's answer cannot be read: {error}")))?;
    let text = if arguments.json { document } else { status_text::written_out(&report) };
    print_line(text.trim_end())?;
    if report.well { Ok(()) } else { Err(Failure::Unwell) }
}

/// Sends `request` to the broker of `data_dir` and gives back its answer, one JSON document.
///
/// # Errors
/// If there is no broker, or it does not answer, or its answer is an error.
pub fn ask(data_dir: &Path, request: &str) -> Result<String, Failure> {
    let path = control_path(data_dir).map_err(Failure::Failed)?;
    let stream = UnixStream::connect(&path).map_err(|error| not_reached(data_dir, &path, &error))?;
    let answer =
        converse(stream, request).map_err(|error| Failure::Failed(not_answered(data_dir, &error)))?;
    match error_in(&answer) {
        Some(words) => Err(Failure::Failed(format!("the broker of {} says: {words}", data_dir.display()))),
        None => Ok(answer),
    }
}

fn converse(mut stream: UnixStream, request: &str) -> io::Result<String> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.write_all(format!("{request}\n").as_bytes())?;
    let mut answer = String::new();
    stream.take(ANSWER_BYTES_MAX).read_to_string(&mut answer)?;
    match answer.ends_with('\n') {
        true => Ok(answer),
        false => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

fn error_in(answer: &str) -> Option<String> {
    let answer: serde_json::Value = serde_json::from_str(answer).ok()?;
    answer.get("error")?.as_str().map(str::to_owned)
}

fn not_reached(data_dir: &Path, path: &Path, error: &io::Error) -> Failure {
    let (data_dir, path) = (data_dir.display(), path.display());
    Failure::Failed(match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => format!(
            "no broker is running on {data_dir}: nobody listens on {path}; start one with `forebay serve`, or name \
             another directory with --data-dir"
        ),
        io::ErrorKind::PermissionDenied => {
            format!("may not ask the broker on {path}: {error}; try it with sudo, or as the broker's user")
        }
        _ => format!("cannot ask the broker on {path}: {error}"),
    })
}

fn not_answered(data_dir: &Path, error: &io::Error) -> String {
    let data_dir = data_dir.display();
    match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => format!(
            "the broker on {data_dir} runs but has not answered for {} s: the card may be stalling, its log says more",
            PATIENCE.as_secs()
        ),
        io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => {
            format!(
                "the broker on {data_dir} hung up without an answer; it may be stopping, its log says more"
            )
        }
        _ => format!("cannot talk to the broker on {data_dir}: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    /// Asks somebody who answers with `bytes` and hangs up.
    fn asked(bytes: &'static [u8]) -> Result<String, Failure> {
        let dir = tempfile::tempdir().expect("a directory");
        let listener = UnixListener::bind(dir.path().join("control.sock")).expect("bound");
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("a caller");
            let mut line = [0; 64];
            let n = stream.read(&mut line).expect("a line");
            stream.write_all(bytes).expect("sent");
            line[..n].to_vec()
        });
        let answer = ask(dir.path(), r#"{"command":"status"}"#);
        assert_eq!(server.join().expect("it ends"), b"{\"command\":\"status\"}\n");
        answer
    }

    fn words(outcome: Result<String, Failure>) -> String {
        match outcome {
            Err(Failure::Failed(words)) => words,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_answer_comes_back_as_it_is() {
        assert_eq!(asked(b"{\"well\":true}\n"), Ok("{\"well\":true}\n".to_owned()));
    }

    #[test]
    fn an_error_or_half_an_answer_is_told() {
        assert!(words(asked(b"{\"error\":\"no command\"}\n")).ends_with("says: no command"));
        assert!(words(asked(b"{\"well\":tr")).contains("hung up without an answer"));
        assert!(words(asked(b"")).contains("hung up without an answer"));
    }

    #[test]
    fn that_nobody_listens_is_told_with_the_directory() {
        let dir = tempfile::tempdir().expect("a directory");
        let expected = format!("no broker is running on {}", dir.path().display());
        assert!(words(ask(dir.path(), "{}")).starts_with(&expected));
        drop(UnixListener::bind(dir.path().join("control.sock")).expect("bound"));
        assert!(words(ask(dir.path(), "{}")).starts_with(&expected), "a stale socket");
    }
}
