//! Refuses requests that a web page of another origin sends.

use super::problem::Failure;
use actix_web::Error;
use actix_web::body::MessageBody;
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::middleware::Next;
use selvedge_guard::browser::{Browsers, Requested};
use std::sync::Arc;

/// Passes a request on if [`Browsers`] admit it.
///
/// # Errors
/// [`Failure::Stranger`].
pub async fn admit(
    browsers: Arc<Browsers>,
    request: ServiceRequest,
    next: Next<impl MessageBody>,
) -> Result<ServiceResponse<impl MessageBody>, Error> {
    // A header that is not text matches no name.
    let header = |name| request.headers().get(name).map(|value| value.to_str().unwrap_or("?"));
    let requested = Requested::new(request.method().is_safe(), header);
    browsers.admit(&requested).map_err(Failure::Stranger)?;
    next.call(request).await
}
