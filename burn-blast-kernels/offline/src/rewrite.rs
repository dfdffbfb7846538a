//! Generated CUDA C++ made into C++ for the emulator.
//!
//! Generated code is plain C++ but for three things: inline PTX, the declaration of shared memory, and the
//! launch. Each is replaced by a call into `emulator/emulator.h`; the rest stays as it is, so that what is
//! tested is what runs on a GPU.

use std::sync::LazyLock;

use regex::{Captures, Regex};

use crate::{OfflineError, Source};

static ASM: LazyLock<Regex> = LazyLock::new(|| {
    regex(
        r#"asm\s*(?:volatile)?\s*\("([^"]*)"\s*:\s*([^:;]*?):\s*([^:;]*?)(?::\s*"memory"\s*)?\);"#,
    )
});
static OPERAND: LazyLock<Regex> = LazyLock::new(|| regex(r#""=?[a-z]"\(([^()]*)\)"#));
static SHARED: LazyLock<Regex> =
    LazyLock::new(|| regex(r"extern __shared__ __align__\(\d+\) char (\w+)\[\];"));
static PARAMETER: LazyLock<Regex> =
    LazyLock::new(|| regex(r"^(?:__grid_constant__ )?(.+?) (const )?(?:__restrict__ )?\w+$"));

fn regex(pattern: &str) -> Regex {
    Regex::new(pattern).expect("the patterns of this file are valid")
}

/// The translation unit that the emulator links: the kernel, and the function that calls it.
///
/// # Errors
/// If the source has an instruction that the emulator does not model, or no kernel.
pub fn rewrite(source: &Source) -> Result<String, OfflineError> {
    let mut refused = None;
    let code = ASM.replace_all(&source.code, |found: &Captures| {
        call(&found[1], &operands(&found[2]), &operands(&found[3])).unwrap_or_else(|| {
            refused.get_or_insert_with(|| found[1].to_string());
            String::new()
        })
    });
    if let Some(instruction) = refused.or_else(|| code.contains("asm ").then(|| "asm".into())) {
        return Err(OfflineError::Instruction { instruction });
    }
    let code = SHARED.replace_all(&code, "char *const $1 = emu::shared_memory();");
    Ok(format!("#include \"emulator.h\"\n#include <cstring>\n{code}\n{}", launcher(source)?))
}

fn operands(list: &str) -> Vec<&str> {
    OPERAND
        .captures_iter(list)
        .map(|found| found.get(1).map_or("", |inner| inner.as_str()))
        .collect()
}

/// The call that stands for one instruction; `None` if it is not modelled.
fn call(ptx: &str, outputs: &[&str], inputs: &[&str]) -> Option<String> {
    let name = ptx.trim_end_matches(';').split_whitespace().next()?;
    let parts: Vec<&str> = name.split('.').collect();
    match parts.as_slice() {
        ["cp", "async", "commit_group"] => Some("emu::cp_async_commit();".into()),
        ["cp", "async", "wait_group"] => {
            let keep: u32 = ptx.trim_end_matches(';').split_whitespace().nth(1)?.parse().ok()?;
            Some(format!("emu::cp_async_wait({keep});"))
        }
        ["cp", "async", "cg" | "ca", "shared::cta", "global"] => {
            let sizes = ptx.trim_end_matches(';').rsplit(", ").take(2).collect::<Vec<_>>();
            let from_bytes = if sizes[0] == "%2" { inputs.get(2)? } else { sizes[0] };
            let (to, from, bytes) = (inputs.first()?, inputs.get(1)?, sizes[1]);
            Some(format!("emu::cp_async({to}, {from}, {bytes}, {from_bytes});"))
        }
        ["ldmatrix", "sync", "aligned", "m8n8", count, rest @ ..] => {
            let transposed = match rest {
                ["shared::cta", "b16"] => false,
                ["trans", "shared::cta", "b16"] => true,
                _ => return None,
            };
            let count = count.strip_prefix('x')?;
            let load =
                format!("emu::ldmatrix(emu_out, {count}, {transposed}, {});", inputs.first()?);
            Some(block("unsigned", outputs, &load))
        }
        ["mma", "sync", "aligned", shape, "row", "col", "f32", a, b, "f32"] if a == b => {
            let (function, left, right) = match (*shape, *a) {
                ("m16n8k16", "f16") => ("mma_m16n8k16_f16", 4, 2),
                ("m16n8k16", "bf16") => ("mma_m16n8k16_bf16", 4, 2),
                ("m16n8k8", "tf32") => ("mma_m16n8k8_tf32", 4, 2),
                _ => return None,
            };
            let (a, rest) = inputs.split_at_checked(left)?;
            let (b, c) = rest.split_at_checked(right)?;
            let (a, b, c) = (a.join(", "), b.join(", "), c.join(", "));
            let multiply = format!(
                "unsigned const emu_a[] = {{{a}}}, emu_b[] = {{{b}}}; float const emu_c[] = {{{c}}}; \
                 emu::{function}(emu_out, emu_a, emu_b, emu_c);"
            );
            Some(block("float", outputs, &multiply))
        }
        _ => None,
    }
}

fn block(element: &str, outputs: &[&str], body: &str) -> String {
    let assign: String =
        outputs.iter().enumerate().map(|(at, to)| format!(" {to} = emu_out[{at}];")).collect();
    format!("{{ {element} emu_out[4]; {body}{assign} }}")
}

/// `emu_launch`, which gives the kernel its buffers in order and its scalars.
fn launcher(source: &Source) -> Result<String, OfflineError> {
    let broken = || OfflineError::Signature { entry: source.entry.clone() };
    let start = source.code.find(&format!("{}(", source.entry)).ok_or_else(broken)?;
    let list = &source.code[start + source.entry.len() + 1..];
    let list = &list[..list.find(") {").ok_or_else(broken)?];
    let mut arguments = Vec::new();
    let mut buffer = 0;
    for parameter in list.split(", ") {
        let kind = PARAMETER.captures(parameter).ok_or_else(broken)?[1].to_string();
        if kind == "info_st" {
            arguments.push("scalars".to_string());
        } else {
            arguments.push(format!("({kind})buffers[{buffer}]"));
            buffer += 1;
        }
    }
    Ok(format!(
        "extern \"C\" void emu_launch(char *const *buffers, char const *info, size_t info_bytes) {{\n\
         info_st scalars = {{}};\n\
         std::memcpy(&scalars, info, info_bytes < sizeof scalars ? info_bytes : sizeof scalars);\n\
         {}({});\n}}\n",
        source.entry,
        arguments.join(", ")
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(body: &str) -> Source {
        let code = format!(
            "struct info_st {{ uint32_t scalars_usize[4]; }};\n\
             extern \"C\" __global__ void __launch_bounds__(32)  k_1(half_8 const* const __restrict__ v1, \
             float * const __restrict__ v2, __grid_constant__ info_st const info_v3) {{\n{body}\n}}\n"
        );
        Source { code, entry: "k_1".into(), shared_bytes: 0 }
    }

    #[test]
    fn instructions_become_calls() {
        let table = [
            (
                "asm volatile(\"cp.async.commit_group;\" :  :  : \"memory\");",
                "emu::cp_async_commit();",
            ),
            (
                "asm volatile(\"cp.async.wait_group 2;\" :  :  : \"memory\");",
                "emu::cp_async_wait(2);",
            ),
            (
                "asm volatile(\"cp.async.cg.shared::cta.global [%0], [%1], 16, %2;\" :  : \
                 \"r\"(v9), \"l\"(v8), \"r\"(v7) : \"memory\");",
                "emu::cp_async(v9, v8, 16, v7);",
            ),
            (
                "asm volatile(\"cp.async.ca.shared::cta.global [%0], [%1], 8, 8;\" :  : \
                 \"r\"(v9), \"l\"(v8) : \"memory\");",
                "emu::cp_async(v9, v8, 8, 8);",
            ),
            (
                "asm volatile(\"ldmatrix.sync.aligned.m8n8.x2.trans.shared::cta.b16 {%0, %1}, [%2];\" : \
                 \"=r\"(r.i_0), \"=r\"(r.i_1) : \"r\"(v5) : \"memory\");",
                "{ unsigned emu_out[4]; emu::ldmatrix(emu_out, 2, true, v5); \
                 r.i_0 = emu_out[0]; r.i_1 = emu_out[1]; }",
            ),
        ];
        for (ptx, want) in table {
            let rewritten = rewrite(&source(ptx)).unwrap();
            assert!(rewritten.contains(want), "{ptx}\nbecame\n{rewritten}");
            assert!(!rewritten.contains("asm"), "{rewritten}");
        }
    }

    #[test]
    fn the_launch_passes_buffers_and_scalars_in_order() {
        let rewritten = rewrite(&source("")).unwrap();
        let call = "k_1((half_8 const*)buffers[0], (float *)buffers[1], scalars);";
        assert!(rewritten.contains(call), "{rewritten}");
    }

    #[test]
    fn an_instruction_that_is_not_modelled_is_named() {
        let error =
            rewrite(&source("asm volatile(\"wgmma.fence.sync.aligned;\" :  : );")).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the emulator does not model `wgmma.fence.sync.aligned;`: add it to src/rewrite.rs and emulator/"
        );
    }

    #[test]
    fn parameters_of_another_form_are_refused() {
        let strange = Source { code: "void k_1(float) {}".into(), ..source("") };
        assert_eq!(
            rewrite(&strange).unwrap_err().to_string(),
            "the parameters of k_1 are not as CubeCL 0.11 writes them: adapt src/rewrite.rs"
        );
    }
}
