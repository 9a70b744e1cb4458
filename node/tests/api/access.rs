//! Who may ask what, and what is answered to who may not.

use super::*;
use actix_web::http::Method;

const TOKENS: &[(&str, &[Scope], Option<&str>)] = &[
    ("reader", &[Scope::Read], None),
    ("seven", &[Scope::Read, Scope::Live], Some("plant-7")),
    ("eight", &[Scope::Read], Some("plant-8")),
    ("prometheus", &[Scope::Metrics], None),
];

fn with(token: &str, path: &str) -> test::TestRequest {
    test::TestRequest::get().uri(path).insert_header(("authorization", format!("Bearer {token}")))
}

#[actix_web::test]
async fn every_path_wants_its_scope_and_only_health_and_the_description_are_open() {
    let w = World::with_tokens(TOKENS).await;
    let mut routes = vec![];
    test::init_service(App::new().app_data(w.api.clone()).configure(|app| routes = all_routes(app))).await;
    let mut open = vec![];
    for Route { method, path, guard } in routes {
        let ask = |request: test::TestRequest| w.ask(request.method(method.clone()).uri(path));
        let Guard::Scope(scope) = guard else {
            open.push(path);
            assert_ne!(ask(test::TestRequest::default()).await.0, 401, "{path}");
            continue;
        };
        let (status, headers, body) = ask(test::TestRequest::default()).await;
        assert_eq!(status, 401, "{path}");
        assert_eq!(header(&headers, "www-authenticate"), "Bearer realm=\"selvedge\"");
        assert_eq!(serde_json::from_slice::<Value>(&body).unwrap()["type"], "/docs#problem-unauthorized");
        let (status, headers, _) = ask(with("unknown", path)).await;
        assert_eq!(status, 401, "{path}");
        assert!(header(&headers, "www-authenticate").contains("invalid_token"));
        let wrong = if scope == Scope::Metrics { None } else { Some("prometheus") };
        if let Some(wrong) = wrong {
            let (status, headers, _) = ask(with(wrong, path)).await;
            let how = header(&headers, "www-authenticate");
            assert_eq!(status, 403, "{path}");
            assert!(how.contains("insufficient_scope") && how.contains(&scope.to_string()), "{how}");
        }
    }
    assert_eq!(open, ["/healthz", "/readyz", "/openapi.json", "/docs", "/docs/page.js", "/docs/page.css"]);
    assert_eq!(w.ask(with("prometheus", "/metrics")).await.0, 200);
    assert_eq!(w.ask(with("reader", "/metrics")).await.0, 200);
    assert_eq!(w.ask(with("reader", "/v1/aggregates")).await.0, 200);
}

#[actix_web::test]
async fn a_token_of_a_site_shows_no_other() {
    let mut w = World::with_tokens(TOKENS).await;
    w.store_at("d", "s", 10_000, [0, 5]).await;
    for path in ["/v1/aggregates", "/v1/latest", "/v1/devices", "/v1/gaps", "/v1/status", "/v1/ledger"] {
        let shown = async |token: &str| {
            let (status, _, body) = w.ask(with(token, path)).await;
            assert_eq!(status, 200, "{path} {token}");
            String::from_utf8(body).unwrap().contains("plant-7")
        };
        assert_eq!(
            (shown("reader").await, shown("seven").await, shown("eight").await),
            (true, true, false),
            "{path}"
        );
    }
    let (status, _, body) = w.ask(with("eight", "/v1/ledger?site=plant-7")).await;
    assert_eq!(status, 403);
    assert!(String::from_utf8(body).unwrap().contains("plant-7"));
    let (_, _, body) = w.ask(with("eight", "/v1/aggregates?every=1h&group_by=stream")).await;
    assert_eq!(serde_json::from_slice::<Value>(&body).unwrap()["aggregates"], json!([]));
}

#[actix_web::test]
async fn what_is_not_there_is_a_problem_too() {
    let w = World::new().await;
    let (status, body) = w.get("/v2").await;
    assert_eq!((status, &body["type"]), (404, &json!("/docs#problem-not-found")));
    assert!(body["detail"].as_str().unwrap().contains("/openapi.json"), "{body}");
    for (method, path, allowed) in
        [(Method::POST, "/v1/aggregates", "GET, HEAD"), (Method::DELETE, "/healthz", "GET, HEAD")]
    {
        let (status, headers, body) = w.ask(test::TestRequest::with_uri(path).method(method)).await;
        assert_eq!((status, header(&headers, "allow")), (405, allowed));
        assert_eq!(header(&headers, "content-type"), "application/problem+json");
        assert_eq!(serde_json::from_slice::<Value>(&body).unwrap()["status"], 405);
    }
    let (status, headers, _) = w.ask(test::TestRequest::with_uri("/v1/devices").method(Method::HEAD)).await;
    assert_eq!((status, header(&headers, "content-type")), (200, "application/json"));
    assert_eq!(
        (header(&headers, "x-content-type-options"), header(&headers, "cache-control")),
        ("nosniff", "no-store")
    );
}
