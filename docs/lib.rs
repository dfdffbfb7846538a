//! The code of the README and of the book, compiled as doc tests. The tests beside it hold the pages against the source.

#[cfg(doctest)]
mod pages {
    macro_rules! page {
        ($($name:ident: $path:literal),* $(,)?) => {
            $(#[doc = include_str!($path)] struct $name;)*
        };
    }
    page! {
        Readme: "../README.md",
        QuickStart: "src/quick-start.md",
        Training: "src/training.md",
        Files: "src/files.md",
        Backends: "src/backends.md",
        Devices: "src/devices.md",
        TensorParallel: "src/tensor-parallel.md",
        WhenItPays: "src/when-it-pays.md",
    }
}
