//! The description of the API against the API.

use super::*;
use std::collections::{BTreeMap, BTreeSet};

/// As it is served where a token is needed.
async fn described() -> Value {
    World::with_tokens(&[("a", &[Scope::Read], None)]).await.ok("/openapi.json").await
}

#[actix_web::test]
async fn every_path_is_described_and_every_described_one_is_there() {
    let w = World::new().await;
    let mut routes = vec![];
    test::init_service(App::new().app_data(w.api.clone()).configure(|app| routes = all_routes(app))).await;
    let there: BTreeMap<_, _> = routes
        .iter()
        .map(|route| {
            let scopes = match route.guard {
                Guard::Open => json!(null),
                Guard::Scope(scope) => json!([{ "token": [scope.to_string()] }]),
            };
            ((route.path.to_string(), route.method.as_str().to_lowercase()), scopes)
        })
        .collect();
    let all = described().await;
    let mut told = BTreeMap::new();
    for (path, methods) in all["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            told.insert((path.clone(), method.clone()), operation["security"].clone());
        }
    }
    assert_eq!(told, there);
}

/// A wrong parameter is answered with those that there are.
#[actix_web::test]
async fn the_parameters_that_are_described_are_those_that_are_read() {
    let w = World::new().await;
    for (path, methods) in described().await["paths"].as_object().unwrap() {
        let Some(parameters) = methods["get"]["parameters"].as_array() else { continue };
        let parameters: Vec<_> = parameters.iter().filter(|p| p["in"] == "query").collect();
        if parameters.is_empty() {
            continue;
        }
        let of_site = path.replace("{site}", w.api.sites[0].as_str());
        let (_, body) = w.get(&format!("{of_site}?no-such=1")).await;
        let said = body["detail"].as_str().unwrap();
        let known: BTreeSet<&str> = said.split_once("there are: ").unwrap().1.split(", ").collect();
        let told: BTreeSet<&str> = parameters.iter().map(|p| p["name"].as_str().unwrap()).collect();
        assert_eq!(told, known, "{path}");
        for parameter in parameters {
            assert!(!parameter["description"].as_str().unwrap().is_empty(), "{path} {}", parameter["name"]);
        }
    }
}

/// The examples of parameters are answered.
#[actix_web::test]
async fn what_is_described_has_the_form_of_openapi() {
    let all = described().await;
    assert_eq!(all["openapi"], "3.1.0");
    let mut ids = BTreeSet::new();
    let tags: Vec<_> = all["tags"].as_array().unwrap().iter().map(|tag| &tag["name"]).collect();
    for (path, methods) in all["paths"].as_object().unwrap() {
        for operation in methods.as_object().unwrap().values() {
            assert!(ids.insert(operation["operationId"].as_str().unwrap()), "{path}");
            assert!(operation["responses"]["200"]["description"].is_string(), "{path}");
            assert!(operation["summary"].is_string(), "{path}");
            assert!(tags.contains(&&operation["tags"][0]), "{path}: the page shows no such chapter");
        }
    }
    // All references lead somewhere.
    let mut waiting = vec![&all];
    while let Some(value) = waiting.pop() {
        if let Some(reference) = value["$ref"].as_str() {
            let target = reference.strip_prefix('#').unwrap();
            assert!(all.pointer(target).is_some(), "{reference}");
        }
        waiting.extend(value.as_object().into_iter().flat_map(|o| o.values()));
        waiting.extend(value.as_array().into_iter().flatten());
    }
    let open = World::new().await.ok("/openapi.json").await;
    assert_eq!(
        open["paths"]["/v1/aggregates"]["get"]["security"],
        Value::Null,
        "no token is needed where none is known"
    );
}

#[actix_web::test]
async fn the_page_asks_nobody_else() {
    let w = World::new().await;
    for (path, form) in
        [("/docs", "text/html"), ("/docs/page.js", "text/javascript"), ("/docs/page.css", "text/css")]
    {
        let (headers, text) = w.text(path).await;
        assert!(header(&headers, "content-type").starts_with(form));
        assert!(header(&headers, "content-security-policy").starts_with("default-src 'none'"));
        assert!(!text.contains("http://") && !text.contains("https://"), "{path}");
        assert!(
            !text.contains("innerHTML") && !text.contains("<script>") && !text.contains(" style="),
            "{path}"
        );
    }
}
