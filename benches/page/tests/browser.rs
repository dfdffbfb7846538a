//! The page in a headless Chromium, on its software adapter.

use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use blast_offline::browser::{Browser, Page};
use serde_json::Value;

static PAGE: LazyLock<String> =
    LazyLock::new(|| blast_page::page().unwrap_or_else(|error| panic!("{error:#}")));

const LIMIT: Duration = Duration::from_secs(600);

/// The browser. Without one the caller's test is skipped, with a word about it.
fn browser() -> Option<Browser> {
    let Some(program) = Browser::find() else {
        let required = std::env::var("BURN_BLAST_REQUIRE_BROWSER").is_ok_and(|value| value == "1");
        assert!(!required, "BURN_BLAST_REQUIRE_BROWSER is set, but no Chromium is in PATH");
        println!("SKIPPED: no Chromium is in PATH, and BURN_BLAST_BROWSER does not name one");
        return None;
    };
    Some(Browser::start(&program, [1280, 900]).expect("the browser starts"))
}

/// The page with a script before its own, in a file.
fn written(dir: &Path, before: &str) -> String {
    let path = dir.join("page.html");
    let script = format!("<script>{before}</script>\n<style>");
    std::fs::write(&path, PAGE.replacen("<style>", &script, 1)).expect("the page is written");
    format!("file://{}", path.display())
}

/// What the page says when it has started: `yes`, or why it cannot.
fn ready(page: &mut Page) -> String {
    let start = Instant::now();
    while start.elapsed() < LIMIT {
        let said = page.evaluate("String(window.ready ?? '')").expect("the page answers");
        if !said.is_empty() {
            return said;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    panic!("the page did not start")
}

/// Opens the page, sets and clicks what `script` says, and returns what came out.
fn act(page: &mut Page, script: &str) -> Value {
    assert_eq!(ready(page), "yes");
    page.evaluate(&format!("{script}; 'done'")).expect("the page answers");
    page.result(LIMIT).expect("the page has a result")
}

/// Measures a small weight with the blocks and shares that the caller ticks.
fn small(blocks: &[usize], removed: &[usize]) -> String {
    format!(
        "part('side').value = '256'; part('rows').value = '64'; \
         const tick = (id, list) => part(id).querySelectorAll('input') \
             .forEach(box => {{ box.checked = list.includes(Number(box.value)); }}); \
         tick('blocks', {blocks:?}); tick('removed', {removed:?}); part('run').click()"
    )
}

/// Where pictures are left for people to look at.
fn pictures() -> PathBuf {
    PathBuf::from(env!("CARGO_TARGET_TMPDIR"))
}

#[test]
fn every_kernel_is_right() {
    let Some(mut browser) = browser() else { return };
    let dir = tempfile::tempdir().expect("a folder");
    let mut page = browser.open(&written(dir.path(), "")).expect("the page opens");
    let said = act(&mut page, "part('check').click()");
    assert_eq!(said["ok"], true, "{said}");
    // Those in f16 run where the adapter has it.
    let all = blast_page::kernels().expect("the kernels").into_iter();
    let without_f16 = all.filter(|kernel| kernel.dtype == "f32").count() as u64;
    assert!(said["kernels"].as_u64() >= Some(without_f16), "{said}, {without_f16}");
}

#[test]
fn the_whole_page_runs_on_wide_and_narrow_screens() {
    let Some(mut browser) = browser() else { return };
    let dir = tempfile::tempdir().expect("a folder");
    let mut page = browser.open(&written(dir.path(), "")).expect("the page opens");
    let said = act(&mut page, &small(&[32, 64], &[50, 90]));
    assert_eq!(said["ok"], true, "{said}");
    // Four products, two sizes of blocks, two shares.
    assert_eq!(said["problems"], 16);
    let record = said["record"].as_str().expect("a record");
    assert_eq!(record.lines().count(), 1 + 16 + 1, "the machine, the problems, the dense rate");
    assert_eq!(kinds(record), kinds(&committed_record()));
    for (name, size, dark) in
        [("wide", [1280, 900], false), ("narrow", [390, 844], false), ("dark", [1280, 900], true)]
    {
        page.show(size, dark).expect("the page has a size");
        let fits = "String(document.documentElement.scrollWidth <= innerWidth)";
        assert_eq!(page.evaluate(fits).expect("a word"), "true", "{name}");
        let picture = STANDARD.decode(page.picture().expect("a picture")).expect("base64");
        let path = pictures().join(format!("page-{name}.png"));
        std::fs::write(&path, picture).expect("the picture is written");
        println!("{}", path.display());
    }
}

/// A record that a page made, which `blast-bench` has a test with.
fn committed_record() -> String {
    let path =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../record/2026-12-01-browser/page.jsonl");
    std::fs::read_to_string(path).expect("the record is there")
}

/// The names that a line of a record has, with those inside.
fn names(line: &str) -> Vec<String> {
    let value: Value = serde_json::from_str(line).expect("JSON");
    let object = value.as_object().expect("an object");
    let inner = |(name, value): (&String, &Value)| match value.as_object() {
        Some(inside) => inside.keys().map(|key| format!("{name}.{key}")).collect(),
        None => vec![name.clone()],
    };
    let mut names: Vec<String> = object.iter().flat_map(inner).collect();
    names.push(value["kind"].to_string());
    names.sort();
    names
}

/// One of each kind of line.
fn kinds(record: &str) -> Vec<Vec<String>> {
    let mut kinds: Vec<_> = record.lines().map(names).collect();
    kinds.sort();
    kinds.dedup();
    kinds
}

#[test]
#[ignore = "a run as a visitor makes it takes minutes on a software adapter; it makes a record and prints its time"]
fn a_run_with_the_default_settings() {
    let Some(mut browser) = browser() else { return };
    let dir = tempfile::tempdir().expect("a folder");
    let mut page = browser.open(&written(dir.path(), "")).expect("the page opens");
    let said = act(&mut page, "part('run').click()");
    assert_eq!(said["ok"], true, "{said}");
    let path = pictures().join("page.jsonl");
    std::fs::write(&path, said["record"].as_str().expect("a record")).expect("it is written");
    println!("{}\n{}", said["message"], path.display());
}

#[test]
fn what_is_missing_is_said() {
    let Some(mut browser) = browser() else { return };
    let table = [
        (
            "Object.defineProperty(Navigator.prototype, 'gpu', { get: () => undefined })",
            "no WebGPU",
        ),
        ("GPU.prototype.requestAdapter = async () => null", "offers no GPU"),
        (
            "Object.defineProperty(GPUSupportedLimits.prototype, 'maxStorageBuffersPerShaderStage', { get: () => 4 })",
            "offers 4 storage buffers a kernel, and the kernels need 8",
        ),
        (
            "GPUAdapter.prototype.requestDevice = async () => { throw new Error('out of order') }",
            "refused the GPU: out of order",
        ),
        ("delete window.DecompressionStream", "too old to unpack"),
    ];
    for (before, sentence) in table {
        let dir = tempfile::tempdir().expect("a folder");
        let mut page = browser.open(&written(dir.path(), before)).expect("the page opens");
        let said = ready(&mut page);
        assert!(said.contains(sentence), "{said}");
        let shown = page.evaluate("part('device').textContent").expect("a text");
        assert_eq!(shown, said);
    }
}

#[test]
fn a_device_that_is_lost_leaves_what_was_measured() {
    let Some(mut browser) = browser() else { return };
    let dir = tempfile::tempdir().expect("a folder");
    let mut page = browser.open(&written(dir.path(), "")).expect("the page opens");
    let lose = "const add = addRow; addRow = (table, line) => { add(table, line); \
        if (state.lines.length === 3) { state.gpu.device.destroy(); } }";
    let said = act(&mut page, &format!("{lose}; {}", small(&[32], &[50, 70, 80, 90])));
    assert_eq!(said["ok"], false, "{said}");
    let message = said["message"].as_str().expect("a sentence");
    assert!(message.contains("lost the GPU") && message.contains("reload"), "{message}");
    assert_eq!(said["problems"], 3);
    assert_eq!(page.evaluate("String(part('save').disabled)").expect("a word"), "false");
    // It can be used again.
    let again = act(&mut page, "addRow = add; tick('removed', [90]); part('run').click()");
    assert_eq!(again["ok"], true, "{again}");
}

#[test]
fn what_the_gpu_refuses_is_said() {
    let Some(mut browser) = browser() else { return };
    let dir = tempfile::tempdir().expect("a folder");
    let mut page = browser.open(&written(dir.path(), "")).expect("the page opens");
    // Buffers that no kernel may bind.
    let plant = "Gpu.prototype.buffer = function () { \
        return this.device.createBuffer({ size: 16, usage: GPUBufferUsage.COPY_DST }); }";
    let said = act(&mut page, &format!("{plant}; {}", small(&[32], &[50])));
    assert_eq!(said["ok"], false, "{said}");
    assert!(said["message"].as_str().is_some_and(|text| text.contains("refused a step")), "{said}");
}

#[test]
fn a_wrong_kernel_is_found() {
    let Some(mut browser) = browser() else { return };
    let dir = tempfile::tempdir().expect("a folder");
    let mut page = browser.open(&written(dir.path(), "")).expect("the page opens");
    // The last sum of a forward product on register tiles is left out.
    let plant = "state.kernels.filter(kernel => kernel.tile_rows > 1 && kernel.verb === 'forward').forEach(kernel => { \
        kernel.code = kernel.code.replaceAll('fma(', 'wrong(') + \
        ' fn wrong(a: vec4<f32>, b: vec4<f32>, c: vec4<f32>) -> vec4<f32> { return fma(a, b, c) * 1.001; }'; })";
    let said = act(&mut page, &format!("{plant}; {}", small(&[32], &[50])));
    assert_eq!(said["ok"], false, "{said}");
    assert!(
        said["message"].as_str().is_some_and(|text| text.contains("is wrong on this GPU")),
        "{said}"
    );
}

#[test]
fn the_committed_page_is_current() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/src/benchmark.html");
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(PAGE.len() <= 1_572_864, "{} bytes", PAGE.len());
    assert!(
        committed == *PAGE,
        "docs/src/benchmark.html is not of this source: run `cargo run --release -p blast-page -- --force`"
    );
}
