//! A node's settings. No file that they name is read here.

use crate::settings::load;
use crate::source::Source;
use selvedge_node::settings::{ENV_PREFIX, NodeSettings};

pub fn run(source: &mut Source) {
    let Some(mut settings) = load::<NodeSettings>(source, ENV_PREFIX, Some("uplink.password")) else {
        return;
    };
    for site in &mut settings.sites {
        site.secret_file = None;
        site.accept_secret_files.clear();
    }
    for token in &mut settings.http.tokens {
        token.token_file = None;
    }
    if let Err(e) = settings.check() {
        assert!(e.to_string().len() < 16 * 1024);
    }
}
