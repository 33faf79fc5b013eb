//! Lists the web client and the page, so that the binary carries them and serves them as they
//! are: nothing is built, bundled or minified.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::{env, fs, io};

/// Folder in the tree, and where its files are served.
const SERVED: [(&str, &str); 2] =
    [("clients/web/src", "/client"), ("clients/web/examples", "/examples")];

fn main() -> io::Result<()> {
    println!("cargo::rerun-if-changed=build.rs");
    let root = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default());
    let mut table = String::from("&[\n");
    for (folder, prefix) in SERVED {
        println!("cargo::rerun-if-changed={folder}");
        list(&root.join(folder), prefix, &mut table)?;
    }
    table.push_str("]\n");
    let out = PathBuf::from(env::var_os("OUT_DIR").unwrap_or_default());
    fs::write(out.join("pages.rs"), table)
}

fn list(folder: &Path, prefix: &str, table: &mut String) -> io::Result<()> {
    let mut entries = fs::read_dir(folder)?.collect::<Result<Vec<_>, _>>()?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let name = entry.file_name();
        let Some(name) = name.to_str().filter(|name| !name.starts_with('.')) else { continue };
        let served = format!("{prefix}/{name}");
        if entry.file_type()?.is_dir() {
            list(&entry.path(), &served, table)?;
        } else {
            println!("cargo::rerun-if-changed={}", entry.path().display());
            let file = entry.path();
            let _ = writeln!(table, "    ({served:?}, include_bytes!({file:?}) as &[u8]),");
        }
    }
    Ok(())
}
