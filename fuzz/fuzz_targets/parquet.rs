#![no_main]

#[path = "../src/parsers.rs"]
mod parsers;

/// The parquet crate asserts what a file may break; the reader catches that and makes an error of it. Only a panic from
/// elsewhere is a find.
fn pardon_the_crate() {
    let abort = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if !panic.location().is_some_and(|place| place.file().contains("/parquet-")) {
            abort(panic);
        }
    }));
}

libfuzzer_sys::fuzz_target!(init: pardon_the_crate(), |bytes: &[u8]| parsers::fuzz("parquet", bytes));
