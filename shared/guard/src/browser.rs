//! Which requests of web browsers a program's HTTP interface answers.
//!
//! A browser runs pages of strangers, and these can send requests to whatever the browser reaches, loopback and the local network
//! included. Two ways lead past the rule that a page reads answers of its own origin only:
//! - **Cross-site requests**: a page can't read the answer, but what the request does is done. Browsers say where a request
//!   comes from, in `Origin` and `Sec-Fetch-Site` (Fetch Standard, section 3.2; Fetch Metadata, section 2).
//! - **DNS rebinding**: the name of the stranger's page comes to mean an address here, and the page asks its own origin. Then `Host`
//!   still holds the stranger's name.
//!
//! So a request whose `Origin` or `Sec-Fetch-Site` names another origin is refused, but for links that a person follows; and where no
//! token is asked for, so is a `Host` that a stranger could own: a name with a dot in it, other than those of local networks,
//! that the settings don't list. Programs that are no browsers send neither header and are not hindered.

/// What a request says of where it comes from.
#[derive(Debug, Clone, Copy, Default)]
pub struct Requested<'a> {
    /// Whether the method only reads (GET or HEAD).
    pub reads: bool,
    /// The header `Host`, or the authority of the request line.
    pub host: Option<&'a str>,
    pub origin: Option<&'a str>,
    pub site: Option<&'a str>,
    pub mode: Option<&'a str>,
}

impl<'a> Requested<'a> {
    /// From the headers of a request, given by their names in lower case.
    pub fn new(reads: bool, header: impl Fn(&'static str) -> Option<&'a str>) -> Self {
        Self {
            reads,
            host: header("host"),
            origin: header("origin"),
            site: header("sec-fetch-site"),
            mode: header("sec-fetch-mode"),
        }
    }
}

/// Whom a program answers.
#[derive(Debug, Clone, Default)]
pub struct Browsers {
    /// Names that this program is reached by, besides addresses and names of local networks.
    pub hosts: Vec<String>,
    /// A token is asked for, which a stranger's page does not have: any `Host` will do.
    pub tokens: bool,
}

/// Endings of names that nobody can own on the internet.
const LOCAL_ENDINGS: [&str; 5] = [".localhost", ".local", ".internal", ".lan", ".home.arpa"];

impl Browsers {
    /// Whether a request is answered.
    ///
    /// # Errors
    /// Why not, and what to do.
    pub fn admit(&self, requested: &Requested<'_>) -> Result<(), String> {
        let host = requested.host.unwrap_or_default();
        if !self.tokens && !host.is_empty() && !self.knows(name_of(host)) {
            return Err(format!(
                "{:?} is not a name of this program: add it to http.hosts, or use its address",
                shown(name_of(host))
            ));
        }
        // A link that a person follows, or a bookmark: the page is shown, and the other site learns nothing of it.
        let followed = requested.reads && requested.mode == Some("navigate");
        let elsewhere = requested.site.is_some_and(|site| !matches!(site, "same-origin" | "none"));
        let other = requested.origin.is_some_and(|origin| authority(origin) != Some(host));
        if (elsewhere && !followed) || other {
            return Err(
                "a web page of another origin sent this request; only this program's own pages may".into()
            );
        }
        Ok(())
    }

    fn knows(&self, name: &str) -> bool {
        let name = name.trim_end_matches('.').to_ascii_lowercase();
        let address = name.parse::<std::net::IpAddr>().is_ok();
        let local = !name.contains('.') || LOCAL_ENDINGS.iter().any(|ending| name.ends_with(ending));
        address || local || self.hosts.iter().any(|host| host.eq_ignore_ascii_case(&name))
    }
}

/// What stands behind the scheme of an origin.
fn authority(origin: &str) -> Option<&str> {
    origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"))
}

/// The name or the address, without a port and without brackets.
fn name_of(host: &str) -> &str {
    if let Some(bracketed) = host.strip_prefix('[') {
        return bracketed.split(']').next().unwrap_or_default();
    }
    host.rsplit_once(':').map_or(host, |(name, _)| name)
}

fn shown(name: &str) -> String {
    name.chars().take(80).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain() -> Browsers {
        Browsers { hosts: vec!["edge.example.com".into()], tokens: false }
    }

    fn from(host: &str) -> Requested<'_> {
        Requested { reads: true, host: Some(host), ..Requested::default() }
    }

    #[test]
    fn a_host_that_a_stranger_could_own_is_refused_where_no_token_is_asked_for() {
        let known = [
            "127.0.0.1:8081",
            "localhost:8081",
            "LOCALHOST",
            "[::1]:8081",
            "10.0.0.7",
            "gateway-1:8081",
            "box.local.",
            "gateway.default.svc.cluster.local:80",
            "edge.example.com",
            "Edge.Example.com:8081",
            "",
        ];
        for host in known {
            assert_eq!(plain().admit(&from(host)), Ok(()), "{host}");
        }
        let strange = [
            "evil.example:8081",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "1.2.3.4.5",
            "x.edge.example.com",
        ];
        for host in strange {
            let why = plain().admit(&from(host)).unwrap_err();
            assert!(why.contains("http.hosts"), "{host}: {why}");
            assert_eq!(Browsers { tokens: true, ..plain() }.admit(&from(host)), Ok(()), "{host}");
        }
        assert_eq!(plain().admit(&Requested::default()), Ok(()), "HTTP/1.0 names no host");
    }

    #[test]
    fn only_pages_of_the_same_origin_ask_and_links_are_followed() {
        let asks = |reads, origin: Option<&'static str>, site, mode| {
            let host = Some("127.0.0.1:8080");
            plain().admit(&Requested { reads, host, origin, site, mode }).is_ok()
        };
        let own = Some("http://127.0.0.1:8080");
        assert!(asks(false, own, Some("same-origin"), Some("cors")));
        assert!(asks(false, own, None, None), "an older browser");
        assert!(asks(false, None, None, None), "no browser");
        assert!(asks(true, None, Some("none"), Some("navigate")), "typed in");
        assert!(asks(true, None, Some("cross-site"), Some("navigate")), "a link");
        assert!(!asks(true, None, Some("cross-site"), Some("no-cors")), "an image");
        assert!(!asks(true, None, Some("same-site"), Some("cors")), "another port of this machine");
        assert!(!asks(false, None, Some("cross-site"), Some("navigate")), "a form");
        for origin in
            ["http://evil.example", "http://127.0.0.1:8081", "http://127.0.0.1", "null", "file://", ""]
        {
            assert!(!asks(false, Some(origin), None, None), "{origin}");
            assert!(!asks(true, Some(origin), None, None), "{origin}");
        }
    }
}
