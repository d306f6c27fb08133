//! The program: parse, run, print one error, exit 0, 1 (it failed), 2 (it was asked for something that cannot
//! be) or 3 (`forebay status` found something wrong).

#![forbid(unsafe_code)]

mod cli;
mod config;

use std::process::ExitCode;

use clap::Parser as _;
use cli::Arguments;

fn main() -> ExitCode {
    match cli::run(Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if let Some(message) = failure.message() {
                cli::output::tell(&format!("forebay: {message}"));
            }
            failure.exit_code()
        }
    }
}
