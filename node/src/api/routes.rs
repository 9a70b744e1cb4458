//! Registers paths with their handlers and guards: [`Routes`] guards every path.

use super::Api;
use super::problem::Failure;
use actix_web::body::MessageBody;
use actix_web::dev::{Payload, ServiceRequest, ServiceResponse};
use actix_web::http::{Method, header};
use actix_web::middleware::{Next, from_fn};
use actix_web::{
    Error, FromRequest, Handler, HttpMessage, HttpRequest, HttpResponse, Responder, ResponseError, web,
};
use selvedge_guard::access::{Caller, Denied, Scope};
use selvedge_http::problem::{refuse_unreadable, shown};
use std::future::{Ready, ready};

/// The permission that a path needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Guard {
    /// None: the path reveals nothing about devices.
    Open,
    /// A token of this scope.
    Scope(Scope),
}

/// A path that was registered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// GET (HEAD goes with it) or POST.
    pub method: Method,
    /// The path, with its variables in braces.
    pub path: &'static str,
    /// The permission that a request needs.
    pub guard: Guard,
}

/// Registers paths in an application, and keeps a list of them.
pub struct Routes<'a> {
    app: &'a mut web::ServiceConfig,
    /// The registered paths of the API.
    pub all: Vec<Route>,
}

const GET: &str = "GET, HEAD";
const POST: &str = "POST";

impl<'a> Routes<'a> {
    /// An empty list for this application.
    pub fn new(app: &'a mut web::ServiceConfig) -> Self {
        Self { app, all: vec![] }
    }

    /// Registers a path with GET, and HEAD with the same handler.
    pub fn get<F, Args>(&mut self, path: &'static str, guard: Guard, handler: F)
    where
        F: Handler<Args>,
        Args: FromRequest + 'static,
        F::Output: Responder + 'static,
    {
        let of_path = web::resource(path)
            .route(web::get().to(handler.clone()))
            .route(web::head().to(handler))
            .default_service(web::to(|request| wrong_method(request, GET)))
            .wrap(from_fn(move |request, next| admit(guard, request, next)));
        self.app.service(of_path);
        self.all.push(Route { method: Method::GET, path, guard });
    }

    /// Registers GET and HEAD of a page for people, or of a file that one loads. It is open to all, and not part of the
    /// API.
    pub fn page<F, Args>(&mut self, path: &'static str, handler: F)
    where
        F: Handler<Args>,
        Args: FromRequest + 'static,
        F::Output: Responder + 'static,
    {
        self.get(path, Guard::Open, handler);
        self.all.pop();
    }

    /// Registers a path with POST.
    pub fn post<F, Args>(&mut self, path: &'static str, guard: Guard, handler: F)
    where
        F: Handler<Args>,
        Args: FromRequest + 'static,
        F::Output: Responder + 'static,
    {
        let of_path = web::resource(path)
            .route(web::post().to(handler))
            .default_service(web::to(|request| wrong_method(request, POST)))
            .wrap(from_fn(move |request, next| admit(guard, request, next)));
        self.app.service(of_path);
        self.all.push(Route { method: Method::POST, path, guard });
    }

    /// Has every other path answered with 404, and every unreadable query string with what is wrong. Returns the
    /// registered paths.
    pub fn end(self) -> Vec<Route> {
        refuse_unreadable(self.app);
        self.app.default_service(web::to(unknown));
        self.all
    }
}

/// Passes a request on to its handler, with its caller, if the guard allows it. It also adds the headers that every
/// answer has.
async fn admit(
    guard: Guard,
    request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<impl MessageBody>, Error> {
    let caller = match guard {
        Guard::Open => Ok(Caller::default()),
        Guard::Scope(scope) => {
            let shown = request.headers().get(header::AUTHORIZATION).map(|value| value.to_str());
            match (request.app_data::<web::Data<Api>>(), shown) {
                (None, _) => Err(Denied::NoToken),
                (Some(api), Some(Err(_))) if !api.access.is_open() => Err(Denied::Unknown),
                (Some(api), shown) => api.access.admit(shown.and_then(Result::ok), scope),
            }
        }
    };
    let mut answer = match caller {
        Ok(caller) => {
            request.extensions_mut().insert(caller);
            next.call(request).await?.map_into_left_body()
        }
        Err(denied) => {
            metrics::counter!("selvedge_node_http_denied_total").increment(1);
            request.into_response(Failure::Denied(denied).error_response()).map_into_right_body()
        }
    };
    let headers = answer.headers_mut();
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, header::HeaderValue::from_static("nosniff"));
    if !headers.contains_key(header::CACHE_CONTROL) {
        headers.insert(header::CACHE_CONTROL, header::HeaderValue::from_static("no-store"));
    }
    Ok(answer)
}

/// The caller of a request, as the guard identified it.
pub struct Asker(pub Caller);

impl FromRequest for Asker {
    type Error = Failure;
    type Future = Ready<Result<Self, Failure>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        // Without a guard no request was admitted.
        let caller = request.extensions().get::<Caller>().cloned();
        ready(caller.map(Self).ok_or(Failure::Denied(Denied::NoToken)))
    }
}

async fn wrong_method(request: HttpRequest, allowed: &'static str) -> HttpResponse {
    let (path, method) = (shown(request.path()), shown(request.method().as_str()));
    Failure::Method { path, method, allowed }.error_response()
}

async fn unknown(request: HttpRequest) -> HttpResponse {
    Failure::Path(shown(request.path())).error_response()
}
