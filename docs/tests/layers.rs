//! The import graph of the source follows the layers that ARCHITECTURE.md draws.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use syn::visit::{self, Visit};
use syn::{Attribute, Item, UseTree};

/// Module path inside the examined folder; empty for its root.
type Module = Vec<String>;

/// One source file: what its `use` items bring into scope, and every path it mentions.
#[derive(Default)]
struct Source {
    /// Names in scope by `use`, with the path each stands for.
    aliases: BTreeMap<String, Vec<String>>,
    paths: BTreeSet<Vec<String>>,
}

/// The files of one folder by module.
struct Tree {
    /// Path of the folder as a module of its crate.
    prefix: Module,
    files: BTreeMap<Module, Source>,
}

impl Tree {
    fn read(folder: &str) -> Self {
        let root = repository().join(folder);
        let inside = folder.split_once("/src").map_or("", |(_, inside)| inside);
        let prefix = inside.split('/').filter(|part| !part.is_empty()).map(str::to_owned).collect();
        let mut files = BTreeMap::new();
        for path in rust_files(&root) {
            let relative = path.strip_prefix(&root).expect("found below the root");
            let mut module: Module = relative
                .with_extension("")
                .iter()
                .map(|part| part.to_string_lossy().into())
                .collect();
            if module.last().is_some_and(|last| last == "mod" || module.len() == 1 && last == "lib")
            {
                module.pop();
            }
            let text = fs::read_to_string(&path).expect("a source file is readable");
            let file = syn::parse_file(&text).unwrap_or_else(|error| panic!("{path:?}: {error}"));
            let mut source = Source::default();
            source.visit_file(&file);
            files.insert(module, source);
        }
        assert!(!files.is_empty(), "{folder} holds no Rust files");
        Self { prefix, files }
    }

    /// The file that defines what `path` names, seen from `from`; none outside the folder.
    fn resolve(&self, from: &Module, path: &[String], depth: usize) -> Option<Module> {
        let (mut at, rest) = self.start(from, path, depth)?;
        let mut rest = rest.as_slice();
        while let Some((next, after)) = rest.split_first() {
            let child: Module = at.iter().chain([next]).cloned().collect();
            if self.files.contains_key(&child) {
                (at, rest) = (child, after);
                continue;
            }
            // A name that the module re-exports belongs to the module it comes from.
            if let Some(target) = self.files[&at].aliases.get(next).filter(|_| depth < 8) {
                return self.resolve(&at, target, depth + 1).or(Some(at));
            }
            break;
        }
        Some(at)
    }

    /// Where the first segment of a path leads, and the segments after it.
    fn start(&self, from: &Module, path: &[String], depth: usize) -> Option<(Module, Vec<String>)> {
        let (first, rest) = path.split_first()?;
        match first.as_str() {
            "crate" => {
                let rest = rest.strip_prefix(self.prefix.as_slice())?;
                Some((Vec::new(), rest.to_vec()))
            }
            "self" => Some((from.clone(), rest.to_vec())),
            "super" => {
                let parent = from.split_last()?.1.to_vec();
                match rest.first().is_some_and(|next| next == "super") {
                    true => self.start(&parent, rest, depth),
                    false => Some((parent, rest.to_vec())),
                }
            }
            name => {
                let child: Module = from.iter().cloned().chain([name.to_string()]).collect();
                if self.files.contains_key(&child) {
                    return Some((child, rest.to_vec()));
                }
                let target = self.files[from].aliases.get(name).filter(|_| depth < 8)?;
                let full: Vec<String> = target.iter().chain(rest).cloned().collect();
                (full != path).then(|| self.start(from, &full, depth + 1))?
            }
        }
    }

    /// The modules that each file imports. Files that only declare and re-export have no imports of their own.
    fn arrows(&self) -> BTreeMap<Module, BTreeSet<Module>> {
        let mut arrows = BTreeMap::new();
        for (module, source) in &self.files {
            let targets = source.paths.iter().filter_map(|path| self.resolve(module, path, 0));
            arrows.insert(module.clone(), targets.filter(|target| target != module).collect());
        }
        arrows
    }
}

impl<'ast> Visit<'ast> for Source {
    fn visit_item(&mut self, item: &'ast Item) {
        match item {
            Item::Mod(module) if is_test(&module.attrs) => {}
            Item::Fn(function) if is_test(&function.attrs) => {}
            Item::Use(item) if is_test(&item.attrs) => {}
            Item::Use(item) => {
                let public = !matches!(item.vis, syn::Visibility::Inherited);
                self.use_tree(&item.tree, Vec::new(), public);
            }
            item => visit::visit_item(self, item),
        }
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let segments: Vec<String> =
            path.segments.iter().map(|segment| segment.ident.to_string()).collect();
        if segments.len() > 1 {
            self.paths.insert(segments);
        }
        visit::visit_path(self, path);
    }
}

impl Source {
    fn use_tree(&mut self, tree: &UseTree, mut path: Vec<String>, public: bool) {
        match tree {
            UseTree::Path(part) => {
                path.push(part.ident.to_string());
                self.use_tree(&part.tree, path, public);
            }
            UseTree::Group(group) => {
                group.items.iter().for_each(|tree| self.use_tree(tree, path.clone(), public));
            }
            UseTree::Name(name) if name.ident == "self" => {
                let last = path.last().cloned().unwrap_or_default();
                self.add(last, path, public);
            }
            UseTree::Name(name) => {
                path.push(name.ident.to_string());
                self.add(name.ident.to_string(), path, public);
            }
            UseTree::Rename(rename) => {
                path.push(rename.ident.to_string());
                self.add(rename.rename.to_string(), path, public);
            }
            UseTree::Glob(_) => {
                self.paths.insert(path);
            }
        }
    }

    /// A re-export counts for the modules that import through it, not as an import itself.
    fn add(&mut self, name: String, path: Vec<String>, public: bool) {
        if !public {
            self.paths.insert(path.clone());
        }
        self.aliases.insert(name, path);
    }
}

fn is_test(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        attribute.path().is_ident("cfg")
            && attribute.meta.require_list().is_ok_and(|list| {
                list.tokens
                    .to_string()
                    .split(|c: char| !c.is_alphanumeric())
                    .any(|word| word == "test")
            })
    })
}

/// The layers that ARCHITECTURE.md draws for a folder, top first. Modules of one line do not know each other.
fn layers(folder: &str) -> Vec<Vec<String>> {
    let text = fs::read_to_string(repository().join("ARCHITECTURE.md")).expect("it is in the root");
    let fence = format!("```layers {folder}\n");
    let (_, block) = text.split_once(&fence).unwrap_or_else(|| panic!("no block \"{fence}\""));
    let (block, _) = block.split_once("```").expect("the block ends");
    let modules = |line: &str| line.split_whitespace().map(str::to_owned).collect();
    block.lines().map(modules).collect()
}

fn name(module: &Module) -> String {
    if module.is_empty() { "(root)".to_owned() } else { module.join("/") }
}

/// A circle of the graph, if there is one.
fn circle(arrows: &BTreeMap<Module, BTreeSet<Module>>) -> Option<Vec<String>> {
    fn walk<'a>(
        at: &'a Module,
        arrows: &'a BTreeMap<Module, BTreeSet<Module>>,
        path: &mut Vec<&'a Module>,
        done: &mut BTreeSet<&'a Module>,
    ) -> Option<Vec<String>> {
        if let Some(start) = path.iter().position(|module| *module == at) {
            return Some(path[start..].iter().chain([&at]).map(|module| name(module)).collect());
        }
        if !done.contains(at) {
            path.push(at);
            for next in arrows.get(at).into_iter().flatten() {
                if let Some(circle) = walk(next, arrows, path, done) {
                    return Some(circle);
                }
            }
            path.pop();
            done.insert(at);
        }
        None
    }
    let mut done = BTreeSet::new();
    arrows.keys().find_map(|start| walk(start, arrows, &mut Vec::new(), &mut done))
}

fn check(folder: &str) {
    let arrows = Tree::read(folder).arrows();
    let layers = layers(folder);
    let place = |module: &Module| {
        let first = module.first()?;
        let layer = layers.iter().position(|layer| layer.contains(first));
        Some(layer.unwrap_or_else(|| panic!("ARCHITECTURE.md draws no layer for {folder}/{first}")))
    };
    let mut upward = Vec::new();
    for (from, targets) in &arrows {
        for to in targets {
            if let (Some(above), Some(below)) = (place(from), place(to))
                && from.first() != to.first()
                && above >= below
            {
                upward.push(format!("{} imports {}", name(from), name(to)));
            }
        }
    }
    assert!(
        upward.is_empty(),
        "{folder}, against the layers of ARCHITECTURE.md:\n{}",
        upward.join("\n")
    );
    let circle = circle(&arrows);
    assert!(circle.is_none(), "{folder}: {} is a circle", circle.unwrap_or_default().join(" → "));
}

#[test]
fn the_gpu_kernels_import_downwards_only() {
    check("burn-blast-kernels/src/cube");
}

#[test]
fn the_layer_crate_imports_downwards_only() {
    check("burn-blast/src");
}

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{folder:?}: {error}"));
    let paths = entries.map(|entry| entry.expect("a listed entry").path());
    let files = paths.flat_map(|path| match path.is_dir() {
        true => rust_files(&path),
        false => vec![path],
    });
    files.filter(|path| path.extension().is_some_and(|end| end == "rs")).collect()
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("docs is in the root").to_owned()
}
