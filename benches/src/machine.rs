//! The description of the machine in a record.

use std::fs;
use std::path::Path;
use std::process::Command;

use burn::tensor::Device;
use burn_blast_models::BackendKind;

use crate::record::{Clock, Machine, VERSION};

/// Free memory assumed where the system does not report it.
const UNKNOWN_MEMORY: f64 = 8.0 * GIB;

/// Fraction of the free memory that a problem may use.
const MEMORY_FRACTION: f64 = 0.7;

/// Bytes per GiB.
const GIB: f64 = (1_u64 << 30) as f64;

/// Cargo features that change the comparison: name, whether it is on, and whether it applies to a host.
const FEATURES: [(&str, bool, bool); 3] = [
    ("x86-v4", cfg!(feature = "x86-v4"), true),
    ("fusion", cfg!(feature = "gpu"), false),
    ("autotune", cfg!(feature = "gpu"), false),
];

/// Describes this machine.
pub fn describe(backend: BackendKind, device: &Device, clock: Clock) -> Machine {
    let host = backend.is_host();
    let name = if host { processor() } else { gpu(device) };
    let name = name.unwrap_or_else(|| "unknown".to_owned());
    let driver = if host { None } else { gpu_driver(&name) };
    let features = FEATURES.iter().filter(|(_, on, on_host)| *on && *on_host == host);
    Machine {
        version: VERSION,
        device: name,
        driver: driver.unwrap_or_default(),
        backend: backend.name().to_owned(),
        simd: if host { simd() } else { Vec::new() },
        threads: rayon::current_num_threads(),
        commit: commit().unwrap_or_default(),
        features: features.map(|(name, ..)| (*name).to_owned()).collect(),
        date: output("date", &["-u", "+%F"]).unwrap_or_default(),
        command: command(),
        clock,
    }
}

/// Bytes that a problem may use on this machine. The free memory of a GPU is known for NVIDIA only.
pub fn memory(backend: BackendKind) -> f64 {
    let mebibytes = || nvidia("memory.free")?.parse::<f64>().ok();
    let bytes =
        if backend.is_host() { host_memory() } else { mebibytes().map(|free| free * GIB / 1024.0) };
    bytes.unwrap_or(UNKNOWN_MEMORY) * MEMORY_FRACTION
}

fn processor() -> Option<String> {
    let linux = || {
        let info = fs::read_to_string("/proc/cpuinfo").ok()?;
        let line = info.lines().find(|line| line.starts_with("model name"))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    };
    linux().or_else(|| output("sysctl", &["-n", "machdep.cpu.brand_string"]))
}

#[cfg(feature = "gpu")]
fn gpu(device: &Device) -> Option<String> {
    device.identity().map(|identity| identity.name)
}

#[cfg(not(feature = "gpu"))]
fn gpu(_device: &Device) -> Option<String> {
    None
}

/// Version of the driver, from the tools that come with it.
fn gpu_driver(name: &str) -> Option<String> {
    let nvidia = || Some(format!("nvidia {}", nvidia("driver_version")?));
    let vulkan = || vulkan_driver(&output("vulkaninfo", &["--summary"])?, name);
    let apple = || Some(format!("macOS {}", output("sw_vers", &["-productVersion"])?));
    if name.to_lowercase().contains("nvidia") {
        nvidia().or_else(vulkan)
    } else {
        vulkan().or_else(apple)
    }
}

/// The driver of the device `name` in the output of `vulkaninfo --summary`.
fn vulkan_driver(summary: &str, name: &str) -> Option<String> {
    let device = summary.split("GPU").find(|part| part.contains(name))?;
    let field = |field: &str| {
        let line = device.lines().find(|line| line.trim_start().starts_with(field))?;
        Some(line.split_once('=')?.1.trim().to_owned())
    };
    Some(format!("{} {}", field("driverName")?, field("driverInfo")?))
}

fn nvidia(field: &str) -> Option<String> {
    let query = format!("--query-gpu={field}");
    let text = output("nvidia-smi", &[&query, "--format=csv,noheader,nounits"])?;
    text.lines().next().map(|line| line.trim().to_owned())
}

fn host_memory() -> Option<f64> {
    let info = fs::read_to_string("/proc/meminfo").ok()?;
    let line = info.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<f64>().ok()? * 1024.0)
}

fn simd() -> Vec<String> {
    #[cfg(target_arch = "x86_64")]
    let features = [
        ("avx2", is_x86_feature_detected!("avx2")),
        ("fma", is_x86_feature_detected!("fma")),
        ("avx512f", is_x86_feature_detected!("avx512f")),
        ("avx512vnni", is_x86_feature_detected!("avx512vnni")),
        ("avx512bf16", is_x86_feature_detected!("avx512bf16")),
        ("avx512fp16", is_x86_feature_detected!("avx512fp16")),
    ];
    #[cfg(target_arch = "aarch64")]
    let features = [
        ("neon", std::arch::is_aarch64_feature_detected!("neon")),
        ("fp16", std::arch::is_aarch64_feature_detected!("fp16")),
        ("bf16", std::arch::is_aarch64_feature_detected!("bf16")),
        ("i8mm", std::arch::is_aarch64_feature_detected!("i8mm")),
        ("sve", std::arch::is_aarch64_feature_detected!("sve")),
    ];
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let features: [(&str, bool); 0] = [];
    features.iter().filter(|(_, found)| *found).map(|(name, _)| (*name).to_owned()).collect()
}

/// The commit checked out in the source folder of this program.
fn commit() -> Option<String> {
    let folder = env!("CARGO_MANIFEST_DIR");
    output("git", &["-C", folder, "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"])
}

fn command() -> String {
    let mut words = std::env::args();
    let program = words.next().unwrap_or_default();
    let name = Path::new(&program).file_name().map(|name| name.to_string_lossy().into_owned());
    let all: Vec<String> = name.into_iter().chain(words).collect();
    all.join(" ")
}

/// The output of a program, if it exists and succeeds.
fn output(program: &str, words: &[&str]) -> Option<String> {
    let output = Command::new(program).args(words).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_driver_of_the_named_device_is_found() {
        let summary = "GPU0:\n\tdeviceName = Radeon\n\tdriverName = radv\n\tdriverInfo = Mesa 25.0\n\
                       GPU1:\n\tdeviceName = llvmpipe (LLVM 19)\n\tdriverName = llvmpipe\n\tdriverInfo = Mesa 24.1\n";
        assert_eq!(vulkan_driver(summary, "Radeon").unwrap(), "radv Mesa 25.0");
        assert_eq!(vulkan_driver(summary, "llvmpipe (LLVM 19)").unwrap(), "llvmpipe Mesa 24.1");
        assert_eq!(vulkan_driver(summary, "Arc"), None);
    }
}
