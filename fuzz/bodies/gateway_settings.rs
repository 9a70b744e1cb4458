//! A gateway's settings. The file with the secret is not the operator's text's to choose here: it is a sound one.

use crate::settings::load;
use crate::source::Source;
use selvedge_gateway::settings::{ENVIRONMENT_PREFIX, Settings};
use std::path::PathBuf;

pub fn run(source: &mut Source) {
    let Some(mut settings) = load::<Settings>(source, ENVIRONMENT_PREFIX, None) else { return };
    settings.site.secret_file = PathBuf::new();
    match settings.check() {
        Err(e) => assert!(e.to_string().len() < 16 * 1024),
        Ok(_) => panic!("there is no secret"),
    }
}
