//! Where a new token comes from: chance, or the operator's standard input. Never the command line.

use std::io::{self, IsTerminal as _, Read as _};

use forebay::{identity::Token, store::StoreError};

use super::{Failure, output::tell};

/// Makes a token from the operating system's generator.
///
/// # Errors
/// If the generator has nothing to give.
pub fn fresh_token() -> Result<Token, Failure> {
    let mut trouble = None;
    let token = Token::generate(|chance| {
        if let Err(error) = getrandom::fill(chance) {
            trouble = Some(error);
        }
    });
    match trouble {
        None => Ok(token),
        Some(error) => Err(Failure::Failed(format!(
            "cannot make a token: the operating system's random generator failed: {error}"
        ))),
    }
}

/// Makes a token and tries to `store` it; one that somebody has already is thrown away.
pub fn with_fresh_token(mut store: impl FnMut(&Token) -> Result<(), StoreError>) -> Result<Token, Failure> {
    const ATTEMPTS: usize = 3;
    let mut outcome = Err(Failure::Failed("no attempt was made".to_owned()));
    for _ in 0..ATTEMPTS {
        let token = fresh_token()?;
        match store(&token) {
            Ok(()) => return Ok(token),
            Err(error @ StoreError::DuplicateToken) => outcome = Err(error.into()),
            Err(error) => return Err(error.into()),
        }
    }
    outcome
}

/// Checks the value of `--token`. Does not repeat what it was given: that may be the token.
///
/// # Errors
/// If it is anything but `-`.
pub fn is_given(value: &str) -> Result<(), Failure> {
    if value == "-" {
        return Ok(());
    }
    Err(Failure::Usage(
        "a token on the command line can be seen by everybody on this machine; \
         give `--token -` and write the token to standard input"
            .to_owned(),
    ))
}

/// Says so if the token is easy to guess.
pub fn warn_if_weak(token: &Token) {
    if token.is_weak() {
        tell(&format!(
            "warning: this token is easy to guess; one of {} random letters and digits is not",
            Token::GENERATED_CHARS
        ));
    }
}

/// Reads the token of `whose` from standard input.
///
/// # Errors
/// If there is none, or it cannot be a token.
pub fn token_from_input(whose: &str) -> Result<Token, Failure> {
    let input = io::stdin();
    let mut bytes = Vec::new();
    let read = if input.is_terminal() {
        tell(&format!("type the token of {whose}, then Enter"));
        let mut line = String::new();
        input.read_line(&mut line).map(|_| bytes.extend(line.bytes()))
    } else {
        // A token that is too long still comes out too long.
        input.lock().take(Token::BYTES_MAX as u64 + 4).read_to_end(&mut bytes).map(drop)
    };
    read.map_err(|error| Failure::Failed(format!("cannot read the token from standard input: {error}")))?;
    token_from_bytes(bytes, "on standard input")
}

/// Makes a token of what was read `place`. One line's end is taken off, be it of Unix or of Windows; anything else belongs to the token.
///
/// # Errors
/// If it cannot be one; it is not repeated.
pub fn token_from_bytes(bytes: Vec<u8>, place: &str) -> Result<Token, Failure> {
    let text = String::from_utf8(bytes)
        .map_err(|_| Failure::Failed(format!("cannot use the token {place}: it is not UTF-8")))?;
    let line = text.strip_suffix('\n').map_or(text.as_str(), |line| line.strip_suffix('\r').unwrap_or(line));
    if line.trim() != line {
        return Err(Failure::Failed(format!(
            "cannot use the token {place}: there is white space before or after it; take it away"
        )));
    }
    Token::parse(line).map_err(|error| Failure::Failed(format!("cannot use the token {place}: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(bytes: &[u8]) -> Result<String, Failure> {
        token_from_bytes(bytes.to_vec(), "on standard input").map(|token| token.reveal().to_owned())
    }

    #[test]
    fn two_fresh_tokens_differ() {
        let [one, other] = [fresh_token(), fresh_token()].map(|token| token.expect("chance"));
        assert_ne!(one.reveal(), other.reveal());
    }

    #[test]
    fn a_token_on_the_command_line_is_refused_and_not_repeated() {
        let Err(Failure::Usage(message)) = is_given("SECRET") else { panic!("must be refused") };
        assert!(message.contains("--token -") && !message.contains("SECRET"), "{message}");
        assert_eq!(is_given("-"), Ok(()));
    }

    #[test]
    fn one_line_end_is_taken_off_a_token_and_nothing_else() {
        assert_eq!(token(b"abc\n").as_deref(), Ok("abc"));
        assert_eq!(token(b"abc\r\n").as_deref(), Ok("abc"));
        assert_eq!(token(b"abc").as_deref(), Ok("abc"));
        for unusable in [&b"abc\n\n"[..], b" abc", b"abc \n", b"\n", b"", b"a\nb\n", &[0xff], &[b'x'; 516]] {
            assert!(matches!(token(unusable), Err(Failure::Failed(_))), "{unusable:?}");
        }
    }

    #[test]
    fn an_unusable_token_is_not_repeated() {
        let Err(Failure::Failed(message)) = token(b"SEC\tRET\n") else { panic!("must be refused") };
        assert_eq!(
            message,
            "cannot use the token on standard input: an access token cannot contain control characters"
        );
    }
}
