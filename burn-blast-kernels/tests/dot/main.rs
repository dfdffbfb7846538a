//! Products by dot products of pairs of bf16 and of four 8-bit integers, against the f64 oracle.
//!
//! On a processor without such dot products the same checks run on the ordinary kernels; the output says which.

#[path = "../common/mod.rs"]
mod common;
mod integers;
#[path = "../pairs/mod.rs"]
mod pairs;

use burn_blast_kernels::cpu::{
    allow_bf16, allow_int8, has_integer_dot_products, prefer_dot_products,
};

/// Every test of this program has the switches on. Returns whether there are dot products of pairs.
fn allowed() -> bool {
    allow_bf16(true);
    allow_int8(true);
    let found = prefer_dot_products();
    println!("dot products of bf16: {found}, of integers: {}", has_integer_dot_products());
    found
}
