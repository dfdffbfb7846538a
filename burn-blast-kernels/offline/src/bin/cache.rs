//! Prints the table of panels in `docs/src/kernel-ladder.md`. Needs no toolkit.

fn main() {
    print!("{}", blast_offline::cache::table());
}
