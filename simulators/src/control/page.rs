//! The web page: its files, which are part of the binary, and headers that prevent content of the
//! journal from being run as a script.

use axum::{
    Router,
    response::{IntoResponse, Response},
    routing::get,
};
use http::{HeaderMap, HeaderValue, header};

/// The page shows what hostile clients sent: nothing from other servers, nothing inline, no frames.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";

/// Path, content type, text.
const FILES: [(&str, &str, &str); 13] = [
    ("/", HTML, include_str!("../page/index.html")),
    ("/page/style.css", CSS, include_str!("../page/style.css")),
    ("/page/main.js", SCRIPT, include_str!("../page/main.js")),
    ("/page/control.js", SCRIPT, include_str!("../page/control.js")),
    ("/page/element.js", SCRIPT, include_str!("../page/element.js")),
    ("/page/coordinates.js", SCRIPT, include_str!("../page/coordinates.js")),
    ("/page/worlds.js", SCRIPT, include_str!("../page/worlds.js")),
    ("/page/clock.js", SCRIPT, include_str!("../page/clock.js")),
    ("/page/rules.js", SCRIPT, include_str!("../page/rules.js")),
    ("/page/gates.js", SCRIPT, include_str!("../page/gates.js")),
    ("/page/journal.js", SCRIPT, include_str!("../page/journal.js")),
    ("/page/books.js", SCRIPT, include_str!("../page/books.js")),
    ("/page/orders.js", SCRIPT, include_str!("../page/orders.js")),
];

/// Serves the page. It only makes control calls, is not one itself, and is not in the OpenAPI
/// document.
pub(super) fn router<S: Clone + Send + Sync + 'static>() -> Router<S> {
    FILES.into_iter().fold(Router::new(), |router, (path, content_type, text)| {
        router.route(path, get(move || async move { file(content_type, text) }))
    })
}

fn file(content_type: &'static str, text: &'static str) -> Response {
    let headers = [
        (header::CONTENT_TYPE, content_type),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        // Another version may listen on this port later.
        (header::CACHE_CONTROL, "no-cache"),
    ];
    let headers: HeaderMap = headers.map(|(name, value)| (name, HeaderValue::from_static(value))).into_iter().collect();
    (headers, text).into_response()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_file_of_the_page_is_served_and_imports_only_served_files() {
        let served: BTreeSet<&str> = FILES.iter().map(|(path, ..)| *path).collect();
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/page");
        for entry in std::fs::read_dir(folder).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            assert!(name == "index.html" || served.contains(format!("/page/{name}").as_str()), "{name} is not served");
        }
        for (path, _, text) in FILES {
            for imported in text.split("from \"./").skip(1).filter_map(|rest| rest.split('"').next()) {
                assert!(served.contains(format!("/page/{imported}").as_str()), "{path} imports {imported}");
            }
        }
    }

    /// Whether it has an attribute like `onclick=`.
    fn has_inline_listener(html: &str) -> bool {
        html.split(" on")
            .skip(1)
            .any(|rest| rest.trim_start_matches(|letter: char| letter.is_ascii_lowercase()).starts_with('='))
    }

    #[test]
    fn the_page_needs_nothing_that_its_policy_forbids() {
        for (path, content_type, text) in FILES {
            assert!(!text.contains("http://") && !text.contains("https://"), "{path} names another server");
            if content_type == HTML {
                assert!(
                    !text.contains(" style=") && !text.contains("<style") && !has_inline_listener(text),
                    "{path} has something inline"
                );
                assert!(!text.contains("<script>"), "{path} has a script inline");
            }
            let is_markup = ["innerHTML =", "outerHTML", "insertAdjacentHTML", "document.write", "eval("];
            assert!(!is_markup.iter().any(|way| text.contains(way)), "{path} makes markup from text");
        }
    }
}
