//! Registers paths in an application, and keeps a list of them: tests compare the description with it, and a request
//! for an unknown path is answered with it.

use super::problem::Failure;
use actix_web::http::Method;
use actix_web::{FromRequest, Handler, HttpRequest, HttpResponse, Responder, ResponseError, Route, web};
use selvedge_http::problem::{refuse_unreadable, shown};

/// Registers paths in an application.
pub struct Routes<'a> {
    app: &'a mut web::ServiceConfig,
    /// The registered paths, each with its methods.
    pub all: Vec<(&'static str, Vec<Method>)>,
}

/// The methods of one path, with their handlers.
#[derive(Default)]
pub struct Methods {
    routes: Vec<Route>,
    names: Vec<Method>,
}

/// GET, and HEAD with the same handler.
pub fn get<F, Args>(handler: F) -> Methods
where
    F: Handler<Args>,
    Args: FromRequest + 'static,
    F::Output: Responder + 'static,
{
    let routes = vec![web::get().to(handler.clone()), web::head().to(handler)];
    Methods { routes, names: vec![Method::GET] }
}

/// A path that has POST only, so far.
pub fn post<F, Args>(handler: F) -> Methods
where
    F: Handler<Args>,
    Args: FromRequest + 'static,
    F::Output: Responder + 'static,
{
    Methods::default().and(Method::POST, handler)
}

/// A path that has DELETE only, so far.
pub fn delete<F, Args>(handler: F) -> Methods
where
    F: Handler<Args>,
    Args: FromRequest + 'static,
    F::Output: Responder + 'static,
{
    Methods::default().and(Method::DELETE, handler)
}

impl Methods {
    /// Adds another method of the same path.
    pub fn and<F, Args>(mut self, method: Method, handler: F) -> Self
    where
        F: Handler<Args>,
        Args: FromRequest + 'static,
        F::Output: Responder + 'static,
    {
        self.routes.push(web::method(method.clone()).to(handler));
        self.names.push(method);
        self
    }
}

impl<'a> Routes<'a> {
    /// An empty list for this application.
    pub fn new(app: &'a mut web::ServiceConfig) -> Self {
        Self { app, all: vec![] }
    }

    /// Registers a path with these methods; any other method is answered with 405.
    pub fn path(&mut self, path: &'static str, methods: Methods) {
        let Methods { routes, names } = methods;
        let with_head =
            |name: &Method| if name == Method::GET { "GET, HEAD".into() } else { name.to_string() };
        let allowed = names.iter().map(with_head).collect::<Vec<String>>().join(", ");
        let wrong = web::to(move |request| wrong_method(request, allowed.clone()));
        let resource = routes.into_iter().fold(web::resource(path), actix_web::Resource::route);
        self.app.service(resource.default_service(wrong));
        self.all.push((path, names));
    }

    /// Has every other path answered with 404 and the list of known paths, which is returned.
    pub fn end(self) -> Vec<(&'static str, Vec<Method>)> {
        let one = |(path, names): &(&'static str, Vec<Method>)| match names.as_slice() {
            [only] if only == Method::GET => path.to_string(),
            [first, ..] if first != Method::GET => {
                format!("{path} ({} only)", names.iter().map(Method::as_str).collect::<Vec<_>>().join(", "))
            }
            names => format!("{path} ({})", names.iter().map(Method::as_str).collect::<Vec<_>>().join(", ")),
        };
        let known = self.all.iter().map(one).collect::<Vec<_>>().join(", ");
        refuse_unreadable(self.app);
        self.app.default_service(web::to(move |request| unknown(request, known.clone())));
        self.all
    }
}

async fn wrong_method(request: HttpRequest, allowed: String) -> HttpResponse {
    let (path, method) = (shown(request.path()), shown(request.method().as_str()));
    Failure::Method { path, method, allowed }.error_response()
}

async fn unknown(request: HttpRequest, known: String) -> HttpResponse {
    Failure::Path(shown(request.path()), known).error_response()
}
