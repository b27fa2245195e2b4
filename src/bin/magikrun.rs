//! The magikrun executable.

use std::process::ExitCode;

fn main() -> ExitCode {
    magikrun::cli::main()
}
