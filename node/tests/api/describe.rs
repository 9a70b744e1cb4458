//! The description of the API against the API.

use super::*;
use selvedge_types::ids::GatewayId;
use selvedge_types::question::{GatewayAnswer, QuestionOutcome, SiteWindows};
use selvedge_types::report::{Led, MovePhase, Report, ReportedMember, ReportedMove};
use selvedge_types::site_window::SiteWindow;
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

/// For each object in answers: the fields that the description lists, and those that answers have.
type ObjectFields = BTreeMap<String, (BTreeSet<String>, BTreeSet<String>)>;

/// Adds the fields of a value, which is in this place. An object that is a component has the component's name as its place.
fn add_fields(all: &Value, schema: &Value, value: &Value, place: &str, found: &mut ObjectFields) {
    if let Some(reference) = schema["$ref"].as_str() {
        let schema = all.pointer(reference.strip_prefix('#').unwrap()).unwrap();
        return add_fields(all, schema, value, reference, found);
    }
    for one in schema["oneOf"].as_array().into_iter().flatten() {
        add_fields(all, one, value, place, found);
    }
    match (value, schema["properties"].as_object()) {
        (Value::Array(items), _) => {
            for item in items {
                add_fields(all, &schema["items"], item, &format!("{place}[]"), found);
            }
        }
        (Value::Object(written), Some(described)) => {
            for name in schema["required"].as_array().into_iter().flatten() {
                assert!(written.contains_key(name.as_str().unwrap()), "{place} lacks {name}: {value}");
            }
            let (known, seen) = found.entry(place.to_string()).or_default();
            known.extend(described.keys().cloned());
            seen.extend(written.keys().cloned());
            for (name, value) in written {
                let schema = described.get(name).unwrap_or(&Value::Null);
                add_fields(all, schema, value, &format!("{place}.{name}"), found);
            }
        }
        _ => {}
    }
}

/// Answers the questions of a node in the place of a site with one gateway, which has one window.
async fn answer_as_site(edge: &Edge, site: &SiteId) {
    let report = Report {
        gateway: GatewayId(1),
        start: 1,
        n: 1,
        uptime_ms: 1_000,
        at: EpochMs(START),
        release: String::new(),
        trouble: None,
        members: vec![ReportedMember::active(GatewayId(1), 1)],
        shards: 1,
        placed: vec![0],
        led: vec![Led {
            shard: ShardId(0),
            cursor: 0,
            last: 1,
            outbox_bytes: 5,
            waiting_parts: 0,
            waiting_ms: 0,
        }],
        directory_slot: 1,
        paused: false,
        moves: vec![ReportedMove {
            shard: Some(ShardId(0)),
            since: 1,
            leaves: None,
            comes: Some(GatewayId(1)),
            phase: MovePhase::Learning,
            done_bytes: 1,
            total_bytes: 2,
        }],
        connections: 0,
        acked: 0,
        questions: 0,
        question_ms: 0,
        skipped: vec![],
    };
    assert!(edge.heard(site, report));
    let sample = Sample { time: EpochMs(START), slot: 1, index: 0, value: 1.0 };
    let window = SiteWindow {
        device: "d".into(),
        stream: "s".into(),
        width_ms: 10_000,
        start: EpochMs(START),
        aggregate: Aggregate::sketched(sample),
        late: 0,
        parts: 1,
        closed: false,
        watermark: EpochMs(START),
        set_aside: 0,
        sequences: Sequences::default(),
    };
    loop {
        let (site, gateway, question) = edge.next().await;
        let windows = SiteWindows { shards: 1, ..SiteWindows::fill([window.clone()], usize::MAX) };
        assert!(edge.answered(
            &site,
            GatewayAnswer { id: question.id, gateway, outcome: QuestionOutcome::Windows(windows) }
        ));
    }
}

/// Asks every path that answers JSON, in such ways that the answers together have every field.
#[actix_web::test]
async fn the_fields_that_are_described_are_those_that_answers_have() {
    let mut w = World::new().await;
    w.change(|api| api.sql.enabled = true);
    w.store_at("d", "s", 10_000, [0, 5]).await;
    w.api.stats.set_subscribed(true);
    let (edge, site) = (w.api.edge.clone(), w.api.sites[0].clone());
    // The edge has batch 2 no longer.
    let hole = Incoming {
        site: site.clone(),
        incarnation: Default::default(),
        shard: ShardId(0),
        first_kept: 3,
        last: 3,
        content: None,
        lost: None,
    };
    w.writer.apply(&[hole].into(), EpochMs(START)).await.unwrap();
    let spans = "every=1d&tz=Europe/Berlin&group_by=stream&fill=null&from=1763900000s&to=1764100000s";
    let all = described().await;
    let mut found = ObjectFields::new();
    let ask = async {
        for (path, methods) in all["paths"].as_object().unwrap() {
            for (method, operation) in methods.as_object().unwrap() {
                let schema = &operation["responses"]["200"]["content"]["application/json"]["schema"];
                if schema.is_null() {
                    continue;
                }
                let uri = path.replace("{site}", site.as_str());
                let query = match path.as_str() {
                    "/v1/aggregates" => spans,
                    "/v1/sites/{site}/aggregates" => "device=*",
                    _ => "",
                };
                let request = match method.as_str() {
                    "post" => test::TestRequest::post()
                        .insert_header(("content-type", "text/plain"))
                        .set_payload("SELECT device FROM windows"),
                    _ => test::TestRequest::get(),
                };
                let (status, _, body) = w.ask(request.uri(&format!("{uri}?{query}"))).await;
                let body: Value = serde_json::from_slice(&body).unwrap();
                assert_eq!(status, 200, "{path}: {body}");
                add_fields(&all, schema, &body, path, &mut found);
            }
        }
    };
    tokio::select! {
        () = ask => {}
        () = answer_as_site(&edge, &site) => {}
    }
    assert!(found.contains_key("/v1/sites/{site}/aggregates"), "{:?}", found.keys());
    for (place, (described, written)) in found {
        assert_eq!(described, written, "{place}");
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
