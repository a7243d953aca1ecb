//! The process `ollamax-engine`: the command line decides whether it is the server or the runner of one model.

use std::process::ExitCode;

fn main() -> ExitCode {
    ollamax_engine::run()
}
