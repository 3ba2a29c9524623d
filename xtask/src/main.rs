//! `cargo xtask`: one file per verb.

mod baseline;
mod bench;
mod ci;
mod data;
mod eval;
mod figures;
mod methods;
mod peers;
mod progress;
mod reproduce;
mod results;
mod train;

use clap::{Parser, Subcommand};

// Training allocates and frees large buffers all the time; the system allocator would map and clear them anew.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Train, evaluate and rebuild the tables.
#[derive(Parser)]
#[command(name = "cargo xtask", version, max_term_width = 110)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Train, evaluate and write the tables and figures of a tier.
    Reproduce(reproduce::Arguments),
    /// Train one method on your own data.
    Train(train::Arguments),
    /// Evaluate the encoder of a finished run.
    Eval(eval::Arguments),
    /// Measure the speed of a case.
    Bench(bench::Arguments),
    /// Run the checks that must hold besides the tests.
    Ci,
}

fn main() -> std::process::ExitCode {
    let cli = Cli::parse();
    let outcome = match cli.verb {
        Verb::Reproduce(arguments) => reproduce::run(&arguments),
        Verb::Train(arguments) => train::run(&arguments),
        Verb::Eval(arguments) => eval::run(&arguments),
        Verb::Bench(arguments) => bench::run(&arguments),
        Verb::Ci => ci::run(),
    };
    match outcome {
        Ok(()) => std::process::ExitCode::SUCCESS,
        // One line, whatever the depth: `outer: inner: cause`.
        Err(error) => {
            eprintln!("error: {error:#}");
            match error.downcast_ref::<train::Interrupted>() {
                Some(_) => std::process::ExitCode::from(130),
                None => std::process::ExitCode::FAILURE,
            }
        }
    }
}
