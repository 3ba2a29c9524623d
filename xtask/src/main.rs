//! `cargo xtask`: one file per verb.

mod attention;
mod baseline;
mod bench;
mod ci;
mod cmc;
mod compare;
mod convert;
mod cpc;
mod curves;
mod data;
mod dry_run;
mod embed;
mod eval;
mod figures;
mod methods;
mod peers;
mod progress;
mod published;
mod push;
mod ranks;
mod reproduce;
mod results;
mod search;
mod tables;
mod train;
mod tsne;
mod weights;

use clap::{Parser, Subcommand};

// Training allocates and frees large buffers all the time; the system allocator would map and clear them anew.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// mimalloc's `mi_option_purge_delay`, which its bindings do not name.
const PURGE_DELAY: libmimalloc_sys::mi_option_t = 15;

/// Freed memory stays with the process: the next training step asks for it again, and fresh pages have to be cleared.
fn keep_memory() {
    // SAFETY: a setting may be changed at any time, and -1 (never) is one of its values.
    unsafe { libmimalloc_sys::mi_option_set(PURGE_DELAY, -1) };
}

/// Candle has threads of its own for element-wise operations, which spin for a while after each on cores that ours need.
/// They go to sleep soon, and are as many as ours. A variable that is set already stays.
fn quiet_candle(threads: Option<usize>) {
    let set = |name: &str, value: String| {
        if std::env::var_os(name).is_none() {
            // SAFETY: this process has no other thread yet that could read the environment.
            unsafe { std::env::set_var(name, value) };
        }
    };
    set("CANDLE_BARRIER_POOL_SPIN_LIMIT", "200".to_string());
    if let Some(threads) = threads {
        set("CANDLE_NUM_THREADS", threads.to_string());
    }
}

/// Train, evaluate and rebuild the tables.
#[derive(Parser)]
#[command(name = "cargo xtask", version, max_term_width = 110)]
struct Cli {
    /// Threads that compute; as many as the machine has cores unless told. Results do not depend on it.
    #[arg(long, global = true)]
    threads: Option<usize>,
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
    /// Draw an encoder's features in the plane.
    Tsne(tsne::Arguments),
    /// Draw where the class token of a vision transformer looks.
    Attention(attention::Arguments),
    /// Embed images or recordings with a trained encoder.
    Embed(embed::Arguments),
    /// Find what is near what among embeddings, and draw a map of them.
    Search(search::Arguments),
    /// Write an encoder with its card to a folder or to the Hub.
    Push(push::Arguments),
    /// Turn a published PyTorch checkpoint into safetensors.
    Convert(convert::Arguments),
    /// Measure the speed of a case.
    Bench(bench::Arguments),
    /// Run the checks that must hold besides the tests.
    Ci,
}

fn main() -> std::process::ExitCode {
    keep_memory();
    let cli = Cli::parse();
    quiet_candle(cli.threads);
    match run(cli) {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", one_line(&format!("{error:#}")));
            let stopped = error.is::<eval::Stopped>() || error.is::<embed::Stopped>();
            if stopped || error.is::<train::Interrupted>() {
                std::process::ExitCode::from(130)
            } else {
                std::process::ExitCode::FAILURE
            }
        }
    }
}

fn run(cli: Cli) -> anyhow::Result<()> {
    if let Some(threads) = cli.threads {
        contrastive_core::kernels::set_threads(threads)?;
    }
    match cli.verb {
        Verb::Reproduce(arguments) => reproduce::run(&arguments),
        Verb::Train(arguments) => train::run(&arguments),
        Verb::Eval(arguments) => eval::run(&arguments),
        Verb::Tsne(arguments) => tsne::run(&arguments),
        Verb::Attention(arguments) => attention::run(&arguments),
        Verb::Embed(arguments) => embed::run(&arguments),
        Verb::Push(arguments) => push::run(&arguments),
        Verb::Search(arguments) => search::run(&arguments),
        Verb::Convert(arguments) => convert::run(&arguments),
        Verb::Bench(arguments) => bench::run(&arguments),
        Verb::Ci => ci::run(),
    }
}

/// An error in one line, whatever its depth: `outer: inner: cause`, without the stack that Candle may add.
fn one_line(text: &str) -> String {
    let stack = |line: &str| line.trim_start().starts_with("0: ");
    text.lines().take_while(|line| !stack(line)).map(str::trim).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    #[test]
    fn errors_fit_one_line() {
        assert_eq!(super::one_line("run: a: b"), "run: a: b");
        assert_eq!(
            super::one_line("a,\n  then b\n   0: main\n             at x.rs:1\n   1: start"),
            "a, then b"
        );
    }
}
