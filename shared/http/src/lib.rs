//! What the HTTP APIs of gateway and node have in common: how a problem is answered, how paths and parameters are described as OpenAPI, and
//! the page that shows the description to people. The paths themselves, and who may ask, are each program's own.

pub mod describe;
pub mod docs;
pub mod problem;
pub mod site_parameters;
