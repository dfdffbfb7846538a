//! WGSL of the kernels that any device can run: valid for wgpu's own compiler and for a browser's, within the limits that
//! WebGPU promises.

use std::collections::BTreeSet;
use std::time::Duration;

use blast_offline::browser::Browser;
use blast_offline::{Declaration, F16, F32, MOST_BUFFERS, MOST_SHARED, MOST_UNITS, Wgsl, wgsl};
use burn_blast_kernels::cube::catalogue::{Definition, FewRows, Portable};
use cubecl::ir::ElemType;
use naga::front::wgsl::parse_str;
use naga::proc::Layouter;
use naga::valid::{Capabilities, ValidationFlags, Validator};
use naga::{AddressSpace, Module};
use serde_json::{Value, json};

/// One kernel of this many is checked without `every::`.
const SAMPLE: usize = 23;

/// A kernel and the type of its tensors.
pub struct Kernel {
    name: String,
    dtype: ElemType,
    generate: Box<dyn Fn(Declaration) -> Wgsl>,
}

impl Kernel {
    fn new(kernel: impl Definition + 'static, dtype: ElemType) -> Self {
        let name = kernel.name();
        let generate = move |declaration| {
            wgsl(&kernel, dtype, declaration).unwrap_or_else(|error| panic!("{error}"))
        };
        Self { name, dtype, generate: Box::new(generate) }
    }
}

/// All that a device with WebGPU's default limits may get. Kernels for few rows that bind more buffers are not for it, nor
/// the ones for bf16, which WGSL does not have.
pub fn kernels() -> Vec<Kernel> {
    let portable = Portable::all().into_iter().map(|kernel| Kernel::new(kernel, kernel.dtype));
    let few =
        FewRows::all().into_iter().filter(|few| !few.int8() && [F16, F32].contains(&few.dtype));
    portable.chain(few.map(|few| Kernel::new(few, few.dtype))).collect()
}

fn parse(code: &str) -> Result<Module, String> {
    parse_str(code).map_err(|error| error.emit_to_string(code))
}

/// What is wrong with a kernel by wgpu's compiler and by WebGPU's default limits.
fn faults(kernel: &Wgsl) -> Vec<String> {
    let module = match parse(&kernel.code) {
        Ok(module) => module,
        Err(error) => return vec![error],
    };
    let mut faults = Vec::new();
    let capabilities = Capabilities::SHADER_FLOAT16 | Capabilities::SUBGROUP;
    if let Err(error) = Validator::new(ValidationFlags::all(), capabilities).validate(&module) {
        faults.push(error.emit_to_string(&kernel.code));
    }
    let mut layouts = Layouter::default();
    layouts.update(module.to_ctx()).expect("the types have sizes");
    let size = |space: AddressSpace| {
        let inside =
            module.global_variables.iter().filter(move |(_, global)| global.space == space);
        inside.map(|(_, global)| layouts[global.ty].size as usize)
    };
    let shared: usize = size(AddressSpace::WorkGroup).sum();
    if shared > MOST_SHARED {
        faults.push(format!("{shared} bytes of shared memory"));
    }
    if shared > kernel.shared_bytes {
        faults.push(format!("{shared} bytes of shared memory, {} planned", kernel.shared_bytes));
    }
    let storage = |space| matches!(space, AddressSpace::Storage { .. });
    let buffers =
        module.global_variables.iter().filter(|(_, global)| storage(global.space)).count();
    if buffers > MOST_BUFFERS {
        faults.push(format!("{buffers} storage buffers"));
    }
    let units = module.entry_points[0].workgroup_size.iter().product::<u32>() as usize;
    if units > MOST_UNITS || units != kernel.units {
        faults.push(format!("{units} units, {} planned", kernel.units));
    }
    faults
}

/// Checks every `step`-th kernel in both declarations of buffers.
pub fn check(step: usize) {
    let kernels = kernels();
    for kernel in kernels.iter().step_by(step) {
        for declaration in [Declaration::Writable, Declaration::AsUsed] {
            let made = (kernel.generate)(declaration);
            let found = faults(&made);
            // Kernels for few rows are not selected where they bind too many.
            let too_many = |fault: &&String| !fault.ends_with("storage buffers");
            let found: Vec<&String> = found
                .iter()
                .filter(|fault| !kernel.name.starts_with("gemv") || too_many(fault))
                .collect();
            assert!(found.is_empty(), "{}, {declaration:?}: {found:#?}", kernel.name);
        }
    }
    println!("{} of {} kernels", kernels.iter().step_by(step).count(), kernels.len());
}

#[test]
fn portable_kernels_fit_any_device() {
    check(SAMPLE);
}

#[test]
fn names_are_unique() {
    let kernels = kernels();
    let names: BTreeSet<&String> = kernels.iter().map(|kernel| &kernel.name).collect();
    assert_eq!(names.len(), kernels.len());
}

/// A kernel that is planted with faults.
fn sound() -> Wgsl {
    let kernels = kernels();
    let kernel =
        kernels.iter().find(|kernel| kernel.name == "spmm_64x32_f32").expect("a known kernel");
    let made = (kernel.generate)(Declaration::AsUsed);
    assert!(faults(&made).is_empty());
    made
}

/// Plants `to` in the place of the first `from`.
fn plant(kernel: &mut Wgsl, from: &str, to: &str) {
    let code = kernel.code.replacen(from, to, 1);
    assert_ne!(code, kernel.code, "nothing was planted");
    kernel.code = code;
}

/// A barrier that only some units of a cube reach.
fn uneven_barrier() -> Wgsl {
    let mut kernel = sound();
    plant(&mut kernel, "workgroupBarrier();", "if v_unit.x > 3u { workgroupBarrier(); }");
    let index = "@builtin(local_invocation_index)";
    let units = format!("@builtin(local_invocation_id) v_unit: vec3<u32>, {index}");
    plant(&mut kernel, index, &units);
    kernel
}

/// One storage buffer more than WebGPU promises.
fn ninth_buffer() -> Wgsl {
    let mut kernel = sound();
    while kernel.buffers <= MOST_BUFFERS {
        let binding = kernel.buffers;
        let more =
            format!("@group(0) @binding({binding}) var<storage, read> more{binding}: array<u32>;");
        plant(&mut kernel, "@group(0)", &format!("{more}\n@group(0)"));
        kernel.written.push(false);
        kernel.buffers += 1;
    }
    kernel
}

/// More shared memory than WebGPU promises. The array is read, or a compiler would drop it.
fn too_much_shared() -> Wgsl {
    let mut kernel = sound();
    let more = "var<workgroup> too_much: array<f32, 4352>;";
    plant(&mut kernel, "var<workgroup>", &format!("{more}\nvar<workgroup>"));
    plant(&mut kernel, "workgroupBarrier();", "_ = too_much[0]; workgroupBarrier();");
    kernel
}

#[test]
fn a_planted_fault_is_found() {
    // A barrier that some units miss is found by the browser alone.
    for (kernel, word) in
        [(ninth_buffer(), "9 storage buffers"), (too_much_shared(), "bytes of shared memory")]
    {
        let found = faults(&kernel);
        assert!(found.iter().any(|fault| fault.contains(word)), "{word}: {found:?}");
    }
}

/// The browser. Without one the caller's test is skipped, with a word about it.
pub fn browser() -> Option<Browser> {
    let Some(program) = Browser::find() else {
        let required = std::env::var("BURN_BLAST_REQUIRE_BROWSER").is_ok_and(|value| value == "1");
        assert!(!required, "BURN_BLAST_REQUIRE_BROWSER is set, but no Chromium is in PATH");
        println!("SKIPPED: no Chromium is in PATH, and BURN_BLAST_BROWSER does not name one");
        return None;
    };
    Some(Browser::start(&program, [960, 900]).expect("the browser starts"))
}

/// Compiles kernels in a page, on a device with WebGPU's default limits.
const COMPILE: &str = r#"<!doctype html><meta charset="utf-8"><script type="application/json" id="kernels">KERNELS</script>
<script>
const kernels = JSON.parse(document.getElementById('kernels').textContent);
(async () => {
  if (!navigator.gpu) { return { adapter: null, faults: ['the page has no WebGPU'] }; }
  const adapter = await navigator.gpu.requestAdapter();
  if (!adapter) { return { adapter: null, faults: ['no adapter'] }; }
  const half = adapter.features.has('shader-f16');
  const features = half ? ['shader-f16'] : [];
  const device = await adapter.requestDevice({ requiredFeatures: features });
  const faults = [];
  let compiled = 0, skipped = 0;
  for (const { name, code, entry, written, half: needed } of kernels) {
    if (needed && !half) { skipped += 1; continue; }
    device.pushErrorScope('validation');
    const module = device.createShaderModule({ code });
    const types = [...written.map(is => is ? 'storage' : 'read-only-storage'), 'read-only-storage'];
    const entries = types.map((type, binding) => ({ binding, visibility: GPUShaderStage.COMPUTE, buffer: { type } }));
    const group = device.createBindGroupLayout({ entries });
    const layout = device.createPipelineLayout({ bindGroupLayouts: [group] });
    device.createComputePipeline({ layout, compute: { module, entryPoint: entry } });
    const messages = (await module.getCompilationInfo()).messages.filter(message => message.type === 'error');
    const error = await device.popErrorScope();
    if (messages.length || error) { faults.push(name + ': ' + (messages[0]?.message ?? error.message)); }
    compiled += 1;
  }
  return { adapter: adapter.info.description || adapter.info.vendor, compiled, skipped, faults };
})().then(result => { window.result = result; }, error => { window.result = { faults: [String(error)] }; });
</script>"#;

/// What a page says about these kernels.
fn compile(browser: &mut Browser, kernels: &[(String, Wgsl, bool)]) -> Value {
    let list = kernels.iter().map(|(name, kernel, half)| {
        let Wgsl { code, entry, written, .. } = kernel;
        json!({ "name": name, "code": code, "entry": entry, "written": written, "half": half })
    });
    let text = Value::Array(list.collect()).to_string().replace("</", "<\\/");
    let dir = tempfile::tempdir().expect("a temporary folder");
    let page = dir.path().join("page.html");
    std::fs::write(&page, COMPILE.replace("KERNELS", &text)).expect("the page is written");
    let mut page = browser.open(&format!("file://{}", page.display())).expect("the page opens");
    page.result(Duration::from_secs(600)).expect("the page ends")
}

/// Compiles every `step`-th kernel.
pub fn check_in_browser(step: usize) {
    let Some(mut browser) = browser() else { return };
    let all: Vec<_> = kernels()
        .iter()
        .step_by(step)
        .map(|kernel| {
            let made = (kernel.generate)(Declaration::AsUsed);
            (kernel.name.clone(), made, kernel.dtype == F16)
        })
        // Selected only where more buffers are bound than WebGPU promises.
        .filter(|(_, kernel, _)| kernel.buffers <= MOST_BUFFERS)
        .collect();
    let said = compile(&mut browser, &all);
    assert_eq!(said["faults"], json!([]), "{said:#}");
    assert!(said["compiled"].as_u64() > Some(0), "{said:#}");
    println!("{said}");
}

#[test]
fn a_browser_compiles_portable_kernels() {
    check_in_browser(SAMPLE);
}

#[test]
fn a_browser_refuses_planted_faults() {
    let Some(mut browser) = browser() else { return };
    let planted =
        [("barrier", uneven_barrier()), ("buffers", ninth_buffer()), ("shared", too_much_shared())];
    let planted = planted.map(|(name, kernel)| (name.to_string(), kernel, false));
    let said = compile(&mut browser, &planted);
    let faults = said["faults"].as_array().expect("a list");
    assert_eq!(faults.len(), planted.len(), "{said:#}");
}
