//! Requests to a gateway: bounded in time and size, and every failure says what to do.

use selvedge_guard::private::read_secret;
use serde_json::Value;
use std::path::Path;
use std::time::Duration;
use ureq::Agent;
use ureq::http::StatusCode;
use ureq::http::header::AUTHORIZATION;

/// How long an answer may take. The gateway itself waits at most 6 s for the others.
const ANSWER_WAIT_MS: u64 = 15_000;

/// The largest answer: 1,024 shards with their replicas take about 1 MiB.
const MAX_ANSWER_BYTES: u64 = 16 * 1024 * 1024;

/// How much of an answer that is no JSON an error shows.
const SHOWN_CHARS: usize = 200;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// The file of the token.
    #[error("the token: {0}")]
    Token(String),
    /// There is no answer.
    #[error("can't ask {url}: {why}; name the HTTP address of a gateway that runs with --gateway")]
    Unreachable { url: String, why: String },
    /// The gateway answered with a problem.
    #[error("{url} answers {status}: {detail}{}", hint(*.status))]
    Refused { url: String, status: u16, detail: String },
    /// The answer is no JSON.
    #[error("{url} answers something that is no JSON ({shown:?}): is it a gateway's HTTP address?")]
    NoJson { url: String, shown: String },
}

fn hint(status: u16) -> &'static str {
    match status {
        401 | 403 => "; give a token with the scope read in --token-file",
        404 => "; a gateway of an older release does not know this path",
        _ => "",
    }
}

/// The way to one gateway.
pub struct Client {
    agent: Agent,
    gateway: String,
    token: Option<String>,
}

impl Client {
    /// A client for the gateway at this URL.
    ///
    /// # Errors
    /// When the token can't be read.
    pub fn new(gateway: &str, token_file: Option<&Path>) -> Result<Self, AskError> {
        let token = token_file.map(read_secret).transpose().map_err(AskError::Token)?;
        let agent = Agent::config_builder()
            .timeout_global(Some(Duration::from_millis(ANSWER_WAIT_MS)))
            .http_status_as_error(false)
            // Gateways are reached directly: a proxy for the web would be shown the token.
            .proxy(None)
            .max_redirects(0)
            .build()
            .new_agent();
        let with_scheme =
            if gateway.contains("://") { gateway.to_string() } else { format!("http://{gateway}") };
        Ok(Self { agent, gateway: with_scheme.trim_end_matches('/').to_string(), token })
    }

    /// The JSON at a path.
    ///
    /// # Errors
    /// When there is no answer, or none with status 200 and JSON.
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
        let shown = || text.chars().filter(|c| !c.is_control()).take(SHOWN_CHARS).collect::<String>();
        let json: Option<Value> = serde_json::from_str(&text).ok();
        match (status, json) {
            (StatusCode::OK, Some(json)) => Ok(json),
            (StatusCode::OK, None) => Err(AskError::NoJson { shown: shown(), url }),
            (_, json) => {
                let detail = json.as_ref().and_then(|json| json["detail"].as_str()).map(str::to_string);
                let detail = detail.unwrap_or_else(shown);
                Err(AskError::Refused { url, status: status.as_u16(), detail })
            }
        }
    }
}
