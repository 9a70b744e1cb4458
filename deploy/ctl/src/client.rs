//! Requests to a gateway, bounded in time and size. Every error says what to do.

use selvedge_guard::private::read_secret;
use serde_json::Value;
use std::path::Path;
use std::time::Duration;
use ureq::Agent;
use ureq::http::StatusCode;
use ureq::http::header::AUTHORIZATION;

/// The timeout of a request. The gateway itself waits at most 6 s for the other gateways.
const ANSWER_WAIT_MS: u64 = 15_000;

/// The largest accepted answer. 1,024 shards with their replicas take about 1 MiB.
const MAX_ANSWER_BYTES: u64 = 16 * 1024 * 1024;

/// How many characters of an answer that is not JSON an error shows.
const SHOWN_CHARS: usize = 200;

/// Why a request has no usable answer.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// The token file can't be read, or others can read it too.
    #[error("can't use the token file: {0}")]
    Token(String),
    /// The request failed, timed out, or its answer is too large.
    #[error("no answer from {url}: {why}; check that the gateway runs, or name another one with --gateway")]
    Unreachable { url: String, why: String },
    /// The status is not 200. `detail` comes from the problem document, or else shows the start of the answer.
    #[error("{url} answered {status}: {detail}{hint}")]
    Refused { url: String, status: u16, detail: String, hint: &'static str },
    /// The status is 200, but the answer is not JSON.
    #[error("the answer from {url} is not JSON ({shown:?}): check that this is a gateway's HTTP address")]
    NoJson { url: String, shown: String },
}

/// What an operator can do about a problem of this status and type.
fn hint(status: StatusCode, problem: &Value) -> &'static str {
    match (status, problem["type"].as_str()) {
        (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN, _) => {
            "; name a file with a token of scope read with --token-file"
        }
        (StatusCode::NOT_FOUND, Some("/docs#problem-not-found")) => {
            "; check that this is a gateway's HTTP address, and that its release has this path"
        }
        _ => "",
    }
}

/// An HTTP client for one gateway.
pub struct Client {
    agent: Agent,
    gateway: String,
    token: Option<String>,
}

impl Client {
    /// A client for the gateway at this URL; `http://` is added where the scheme is missing.
    ///
    /// # Errors
    /// [`AskError::Token`].
    pub fn new(gateway: &str, token_file: Option<&Path>) -> Result<Self, AskError> {
        let token = token_file.map(read_secret).transpose().map_err(AskError::Token)?;
        let agent = Agent::config_builder()
            .timeout_global(Some(Duration::from_millis(ANSWER_WAIT_MS)))
            .http_status_as_error(false)
            // No proxy: it would see the token.
            .proxy(None)
            .max_redirects(0)
            .build()
            .new_agent();
        let with_scheme =
            if gateway.contains("://") { gateway.to_string() } else { format!("http://{gateway}") };
        Ok(Self { agent, gateway: with_scheme.trim_end_matches('/').to_string(), token })
    }

    /// Gets the JSON at a path.
    ///
    /// # Errors
    /// When there is no answer, its status is not 200, or it is not JSON.
    pub fn get(&self, path: &str) -> Result<Value, AskError> {
        let url = format!("{}{path}", self.gateway);
        let unreachable = |why: ureq::Error| AskError::Unreachable { url: url.clone(), why: why.to_string() };
        let mut request = self.agent.get(&url);
        if let Some(token) = &self.token {
            request = request.header(AUTHORIZATION, format!("Bearer {token}"));
        }
        let mut answer = request.call().map_err(unreachable)?;
        let status = answer.status();
        let body = answer.body_mut().with_config().limit(MAX_ANSWER_BYTES).read_to_vec();
        let body = body.map_err(unreachable)?;
        let text = String::from_utf8_lossy(&body);
        let clean = |text: &str| text.chars().filter(|c| !c.is_control()).collect::<String>();
        let shown = || clean(&text).chars().take(SHOWN_CHARS).collect::<String>();
        let json: Option<Value> = serde_json::from_str(&text).ok();
        match (status, json) {
            (StatusCode::OK, Some(json)) => Ok(json),
            (StatusCode::OK, None) => Err(AskError::NoJson { shown: shown(), url }),
            (_, json) => {
                let problem = json.unwrap_or_default();
                let detail = problem["detail"].as_str().map_or_else(shown, clean);
                Err(AskError::Refused { url, detail, hint: hint(status, &problem), status: status.as_u16() })
            }
        }
    }
}
