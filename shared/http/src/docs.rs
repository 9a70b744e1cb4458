//! `/docs`: a page that shows the program's `/openapi.json` and lets its paths be tried. It needs nothing from elsewhere.

use actix_web::HttpResponse;
use actix_web::http::header;

/// Nothing runs in the page but its own script, and that asks nobody but the program that serves it.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

fn file(content_type: &'static str, body: &'static str) -> HttpResponse {
    HttpResponse::Ok()
        .content_type(content_type)
        .insert_header((header::CONTENT_SECURITY_POLICY, POLICY))
        .insert_header((header::REFERRER_POLICY, "no-referrer"))
        .insert_header((header::CACHE_CONTROL, "no-cache"))
        .body(body)
}

/// Serves `/docs`, which draws `/openapi.json` for people.
pub async fn page() -> HttpResponse {
    file("text/html; charset=utf-8", include_str!("docs/page.html"))
}

/// Serves the script that `/docs` loads.
pub async fn script() -> HttpResponse {
    file("text/javascript; charset=utf-8", include_str!("docs/page.js"))
}

/// Serves the style sheet that `/docs` loads.
pub async fn style() -> HttpResponse {
    file("text/css; charset=utf-8", include_str!("docs/page.css"))
}
