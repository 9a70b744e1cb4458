//! The web pages: what is under `files`, compiled in as it is. The pages are empty; their scripts draw what the API
//! answers, with the token that the person has, so that nothing here knows of data or of who may see it.
//!
//! - Invariant: a page loads nothing from elsewhere and runs no script but those of [`FILES`]; the header
//!   `Content-Security-Policy` sees to it, also that no text becomes markup.

use crate::api::routes::Routes;
use actix_web::http::header::{self, EntityTag, Header, IfNoneMatch};
use actix_web::{HttpRequest, HttpResponse};
use std::sync::LazyLock;
use xxhash_rust::xxh3::xxh3_64;

/// The addresses of the pages. Which one it is, the script reads from the address.
pub const PAGES: [&str; 5] =
    ["/", "/sites/{site}", "/devices", "/devices/{site}/{device}", "/streams/{site}/{device}/{stream}"];

const POLICY: &str = "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; object-src 'none'; \
                      require-trusted-types-for 'script'; trusted-types 'none'";

/// A file as it is served.
#[derive(Debug, Clone, Copy)]
pub struct File {
    pub path: &'static str,
    pub content_type: &'static str,
    pub body: &'static str,
}

/// The page around all pages.
pub const PAGE: File =
    File { path: "/", content_type: "text/html; charset=utf-8", body: include_str!("files/page.html") };

const SCRIPT: &str = "text/javascript; charset=utf-8";

macro_rules! files {
    ($($content_type:expr, $name:literal;)*) => {
        /// What the pages load.
        pub const FILES: &[File] = &[$(File {
            path: concat!("/web/", $name),
            content_type: $content_type,
            body: include_str!(concat!("files/", $name)),
        }),*];
    };
}

files! {
    "text/css; charset=utf-8", "style.css";
    "image/svg+xml", "icon.svg";
    SCRIPT, "theme.js";
    SCRIPT, "main.js";
    SCRIPT, "api.js";
    SCRIPT, "dom.js";
    SCRIPT, "format.js";
    SCRIPT, "chart.js";
    SCRIPT, "plot.js";
    SCRIPT, "ring.js";
    SCRIPT, "hour.js";
    SCRIPT, "live.js";
    SCRIPT, "pages/overview.js";
    SCRIPT, "pages/site.js";
    SCRIPT, "pages/devices.js";
    SCRIPT, "pages/device.js";
    SCRIPT, "pages/stream.js";
}

/// Of each file, in order, the sign by which a browser knows that it has it already; the last is the page's.
static TAGS: LazyLock<Vec<EntityTag>> = LazyLock::new(|| {
    let tag = |file: &File| EntityTag::new_strong(format!("{:016x}", xxh3_64(file.body.as_bytes())));
    FILES.iter().chain([&PAGE]).map(tag).collect()
});

/// Puts the pages and their files into an application.
pub fn pages(all: &mut Routes<'_>) {
    for path in PAGES {
        all.page(path, page);
    }
    for (at, file) in FILES.iter().enumerate() {
        all.page(file.path, move |request: HttpRequest| async move { answer(&request, file, at) });
    }
}

async fn page(request: HttpRequest) -> HttpResponse {
    answer(&request, &PAGE, FILES.len())
}

fn answer(request: &HttpRequest, file: &'static File, at: usize) -> HttpResponse {
    let tag = TAGS.get(at).cloned().unwrap_or_else(|| EntityTag::new_weak(String::new()));
    let known = match IfNoneMatch::parse(request) {
        Ok(IfNoneMatch::Any) => true,
        Ok(IfNoneMatch::Items(tags)) => tags.iter().any(|known| known.weak_eq(&tag)),
        Err(_) => false,
    };
    let mut answer = if known { HttpResponse::NotModified() } else { HttpResponse::Ok() };
    answer
        .insert_header(header::ETag(tag))
        // Asked about each time, so that a new release of the node is never mixed with an old page.
        .insert_header((header::CACHE_CONTROL, "no-cache"))
        .insert_header((header::CONTENT_SECURITY_POLICY, POLICY))
        .insert_header((header::REFERRER_POLICY, "no-referrer"));
    if known { answer.finish() } else { answer.content_type(file.content_type).body(file.body) }
}
