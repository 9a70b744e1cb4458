//! Refuses requests that a web page of another origin sends.

use super::problem::Failure;
use actix_web::body::{EitherBody, MessageBody};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::middleware::Next;
use actix_web::{Error, ResponseError};
use selvedge_guard::browser::{Browsers, Requested};
use std::sync::Arc;

/// Passes a request on if [`Browsers`] admit it, and answers 403 otherwise.
pub async fn admit<B: MessageBody>(
    browsers: Arc<Browsers>,
    request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<EitherBody<B>>, Error> {
    // A header that is not text matches no name.
    let header = |name| request.headers().get(name).map(|value| value.to_str().unwrap_or("?"));
    let admitted = browsers.admit(&Requested::new(request.method().is_safe(), header));
    match admitted {
        Ok(()) => next.call(request).await.map(ServiceResponse::map_into_left_body),
        Err(why) => Ok(request.into_response(Failure::Stranger(why).error_response()).map_into_right_body()),
    }
}
