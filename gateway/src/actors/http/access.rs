//! Admits requests that show a token with the needed scope, if there are tokens.

use super::Given;
use super::problem::Failure;
use actix_web::body::{EitherBody, MessageBody};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::{Method, header};
use actix_web::middleware::Next;
use actix_web::{Error, ResponseError};
use selvedge_guard::access::{Access, Scope};
use selvedge_types::ids::SiteId;
use selvedge_types::params::Parameters;
use std::sync::Arc;

/// The beginning of the only paths whose DELETE takes parameters. Their handler checks them.
const REMOVES_GATEWAYS: &str = "/v1/gateways/";

/// The scope that a request needs; `None` for health and the description of the API, which reveal nothing about
/// devices.
pub fn needed(method: &Method, path: &str) -> Option<Scope> {
    match (path, method.is_safe()) {
        ("/healthz" | "/readyz" | "/openapi.json" | "/docs" | "/docs/page.js" | "/docs/page.css", _) => None,
        ("/metrics", true) => Some(Scope::Metrics),
        (_, true) => Some(Scope::Read),
        (_, false) => Some(Scope::Operate),
    }
}

/// Passes a request on if its token allows it, and answers 401 or 403 otherwise. It also refuses a request that changes
/// something and has parameters.
pub async fn admit<B: MessageBody>(
    site: SiteId,
    access: Arc<Access>,
    request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<EitherBody<B>>, Error> {
    let admitted = match needed(request.method(), request.path()) {
        Some(scope) if !access.is_open() => {
            // A header that is not text counts as an unknown token.
            let shown =
                request.headers().get(header::AUTHORIZATION).map(|value| value.to_str().unwrap_or("?"));
            access
                .admit(shown, scope)
                .map_err(Failure::from)
                .and_then(|caller| if caller.sees(site.as_str()) { Ok(()) } else { Err(Failure::Site(site)) })
        }
        _ => Ok(()),
    };
    let refused = match admitted {
        Ok(()) => without_parameters(&request).err(),
        Err(denied) => {
            metrics::counter!("selvedge_http_denied_total").increment(1);
            Some(denied)
        }
    };
    match refused {
        None => next.call(request).await.map(ServiceResponse::map_into_left_body),
        Some(failure) => Ok(request.into_response(failure.error_response()).map_into_right_body()),
    }
}

/// Refuses parameters of requests that change something and take none: a client that gives one means to narrow the
/// change, and ignoring it would change more.
fn without_parameters(request: &ServiceRequest) -> Result<(), Failure> {
    let takes_some = request.method() == Method::DELETE && request.path().starts_with(REMOVES_GATEWAYS);
    if request.method().is_safe() || request.query_string().is_empty() || takes_some {
        return Ok(());
    }
    let given = Given::from_query(request.query_string())
        .map_or_else(|_| vec![(request.query_string().to_string(), String::new())], Given::into_inner);
    Ok(Parameters::new(given, &[]).map(drop)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use actix_web::middleware::from_fn;
    use actix_web::{App, HttpResponse, test, web};
    use selvedge_guard::access::{Token, TokenDigest};

    #[actix_web::test]
    async fn each_request_needs_its_scope_and_only_health_and_the_description_are_open() {
        let token = |name: &str, scopes: &[Scope], site: Option<&str>| Token {
            name: name.into(),
            digest: TokenDigest::of(name),
            scopes: scopes.to_vec(),
            sites: site.map(|site| Arc::from([site.to_string()])),
        };
        let access = Arc::new(Access::new(vec![
            token("reader", &[Scope::Read], Some("plant-7")),
            token("operator", &[Scope::Operate], None),
            token("prometheus", &[Scope::Metrics], None),
            token("stranger", &[Scope::Read], Some("plant-8")),
        ]));
        let site = SiteId::new("plant-7").unwrap();
        let guard = from_fn(move |request, next| admit(site.clone(), access.clone(), request, next));
        let app = App::new().wrap(guard).default_service(web::to(HttpResponse::Ok));
        let app = test::init_service(app).await;
        for (method, path, token, expected) in [
            ("GET", "/healthz", "", 200),
            ("GET", "/readyz", "", 200),
            ("GET", "/openapi.json", "", 200),
            ("GET", "/docs", "", 200),
            ("GET", "/v1/status", "", 401),
            ("GET", "/metrics", "", 401),
            ("GET", "/nothing", "", 401),
            ("GET", "/v1/status", "reader", 200),
            ("GET", "/v1/status", "unknown", 401),
            ("GET", "/v1/status", "stranger", 403),
            ("GET", "/v1/status", "prometheus", 403),
            ("GET", "/metrics", "prometheus", 200),
            ("GET", "/metrics", "reader", 200),
            ("DELETE", "/v1/devices/d", "reader", 403),
            ("POST", "/v1/quarantine/1/readmit", "operator", 200),
            ("DELETE", "/v1/devices/d", "operator", 200),
            ("GET", "/v1/devices", "operator", 403),
            ("DELETE", "/v1/devices/d?stream=s", "operator", 400),
            ("DELETE", "/v1/gateways/3?force=true", "operator", 200),
            ("DELETE", "/v1/gateways/3?force=true", "reader", 403),
            ("POST", "/v1/gateways/3/drain?dry=1", "operator", 400),
            ("POST", "/v1/quarantine/1/readmit?dry=1", "operator", 400),
            ("POST", "/v1/ledger/0?%ff", "operator", 400),
            ("GET", "/v1/devices?limit=3", "reader", 200),
        ] {
            let mut request = test::TestRequest::with_uri(path).method(method.parse().unwrap());
            if !token.is_empty() {
                request = request.insert_header(("authorization", format!("Bearer {token}")));
            }
            let answer = test::call_service(&app, request.to_request()).await;
            assert_eq!(answer.status(), expected, "{method} {path} {token}");
            assert_eq!(answer.headers().contains_key("www-authenticate"), [401, 403].contains(&expected));
        }
    }
}
