#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    (burn_blast_fuzz::Target::named("gguf").run)(input);
});
