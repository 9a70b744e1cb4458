#![no_main]
#[path = "../bodies/sql.rs"]
mod body;
#[path = "../bodies/source.rs"]
mod source;

use std::sync::LazyLock;

static DATABASE: LazyLock<body::Database> = LazyLock::new(body::Database::new);

libfuzzer_sys::fuzz_target!(|data: &[u8]| body::run(&DATABASE, data));
