//! The files the binary carries: the call page and the web client it uses.

/// Address and content of every file, sorted by folder and name.
static FILES: &[(&str, &[u8])] = include!(concat!(env!("OUT_DIR"), "/pages.rs"));

/// One file, ready to be answered.
#[derive(Clone, Copy, Debug)]
pub struct Page {
    /// For `Content-Type`.
    pub media_type: &'static str,
    /// The file as it is in the tree.
    pub content: &'static [u8],
}

/// The file at `path`. The page itself is at `/`.
pub fn find(path: &str) -> Option<Page> {
    let path = if path == "/" { "/examples/index.html" } else { path };
    let (name, content) = FILES.iter().find(|(name, _)| *name == path)?;
    Some(Page { media_type: media_type(name), content })
}

fn media_type(name: &str) -> &'static str {
    match name.rsplit('.').next() {
        Some("html") => "text/html; charset=utf-8",
        Some("js" | "mjs") => "text/javascript; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        Some("svg") => "image/svg+xml",
        Some("png") => "image/png",
        Some("ico") => "image/x-icon",
        Some("json" | "webmanifest") => "application/json",
        _ => "application/octet-stream",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_and_the_client_are_aboard() {
        let page = find("/").unwrap();
        assert_eq!(page.media_type, "text/html; charset=utf-8");
        assert!(!page.content.is_empty());
        assert_eq!(find("/client/index.js").unwrap().media_type, "text/javascript; charset=utf-8");
        assert!(find("/client/../Cargo.toml").is_none());
        assert!(find("/examples").is_none());
    }
}
