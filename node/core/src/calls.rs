//! Checks the names in a statement of PostgreSQL's dialect: only functions that compute from their arguments, and nothing of the
//! server's own.
//!
//! A transaction that only reads still lets a statement call functions that act on the session or the server (`set_config`,
//! `pg_sleep`, `pg_terminate_backend`, `lo_import`, `query_to_xml`, whatever an extension brings). So only functions of a list are
//! let through. The statement is cut into words as the server cuts it; what could be cut in two ways (escapes in strings and
//! names) is refused. Its meaning is left to the server.
//!
//! - Invariant: each name before a parenthesis is one of the list, a word of the grammar, or the name of an alias: after AS, or
//!   before a list of columns and AS, as WITH has it.
//! - Invariant: no name begins with `pg_`, which is how the server's own tables, views, functions and schemas begin.
//! - Invariant: what the server takes for one word is one word here. To it every character beyond ASCII is a letter, a space that
//!   does not break a line as well; letters right behind a digit are refused unless they are the number's.
//!
//! Left out: operators and casts, which the server's own set of does not act. An operator that an administrator has made is his.

/// Words of the grammar that a parenthesis may follow.
const GRAMMAR: &[&str] = &[
    "all",
    "and",
    "any",
    "array",
    "as",
    "asc",
    "between",
    "bit",
    "by",
    "case",
    "cast",
    "char",
    "character",
    "cube",
    "current_time",
    "current_timestamp",
    "dec",
    "decimal",
    "desc",
    "distinct",
    "else",
    "end",
    "except",
    "exists",
    "extract",
    "fetch",
    "filter",
    "first",
    "float",
    "from",
    "group",
    "grouping",
    "having",
    "ilike",
    "in",
    "inner",
    "intersect",
    "interval",
    "is",
    "join",
    "lateral",
    "left",
    "like",
    "limit",
    "localtime",
    "localtimestamp",
    "materialized",
    "next",
    "not",
    "numeric",
    "offset",
    "on",
    "or",
    "order",
    "outer",
    "over",
    "overlay",
    "partition",
    "position",
    "precision",
    "right",
    "rollup",
    "row",
    "select",
    "sets",
    "similar",
    "some",
    "substring",
    "then",
    "time",
    "timestamp",
    "timestamptz",
    "timetz",
    "to",
    "trim",
    "union",
    "using",
    "values",
    "varchar",
    "varying",
    "when",
    "where",
    "window",
    "with",
    "within",
    "zone",
];

/// Functions that reckon: of their arguments alone, without growing beyond them, and in a time that can be told.
const FUNCTIONS: &[&str] = &[
    // Of many rows.
    "array_agg",
    "avg",
    "bit_and",
    "bit_or",
    "bit_xor",
    "bool_and",
    "bool_or",
    "corr",
    "count",
    "covar_pop",
    "covar_samp",
    "cume_dist",
    "dense_rank",
    "every",
    "first_value",
    "json_agg",
    "json_object_agg",
    "jsonb_agg",
    "jsonb_object_agg",
    "lag",
    "last_value",
    "lead",
    "max",
    "min",
    "mode",
    "nth_value",
    "ntile",
    "percent_rank",
    "percentile_cont",
    "percentile_disc",
    "range_agg",
    "rank",
    "regr_avgx",
    "regr_avgy",
    "regr_count",
    "regr_intercept",
    "regr_r2",
    "regr_slope",
    "regr_sxx",
    "regr_sxy",
    "regr_syy",
    "row_number",
    "stddev",
    "stddev_pop",
    "stddev_samp",
    "string_agg",
    "sum",
    "var_pop",
    "var_samp",
    "variance",
    // Of numbers.
    "abs",
    "acos",
    "asin",
    "atan",
    "atan2",
    "cbrt",
    "ceil",
    "ceiling",
    "cos",
    "cot",
    "degrees",
    "div",
    "exp",
    "floor",
    "gcd",
    "lcm",
    "ln",
    "log",
    "log10",
    "mod",
    "pi",
    "power",
    "radians",
    "random",
    "round",
    "sign",
    "sin",
    "sqrt",
    "tan",
    "trunc",
    "width_bucket",
    // Of texts.
    "ascii",
    "bit_length",
    "btrim",
    "char_length",
    "character_length",
    "chr",
    "concat",
    "concat_ws",
    "decode",
    "encode",
    "initcap",
    "left",
    "length",
    "lower",
    "ltrim",
    "md5",
    "octet_length",
    "quote_ident",
    "quote_literal",
    "regexp_match",
    "reverse",
    "right",
    "rtrim",
    "sha256",
    "split_part",
    "starts_with",
    "string_to_array",
    "strpos",
    "substr",
    "to_hex",
    "translate",
    "upper",
    // Of times.
    "age",
    "clock_timestamp",
    "date",
    "date_bin",
    "date_part",
    "date_trunc",
    "extract",
    "isfinite",
    "justify_days",
    "justify_hours",
    "justify_interval",
    "make_date",
    "make_interval",
    "make_time",
    "make_timestamp",
    "make_timestamptz",
    "now",
    "statement_timestamp",
    "time_bucket",
    "timezone",
    "to_char",
    "to_date",
    "to_number",
    "to_timestamp",
    // Of anything.
    "array_length",
    "array_position",
    "array_to_json",
    "array_to_string",
    "cardinality",
    "coalesce",
    "generate_series",
    "generate_subscripts",
    "greatest",
    "json_array_length",
    "json_build_array",
    "json_build_object",
    "json_object",
    "jsonb_array_length",
    "jsonb_build_array",
    "jsonb_build_object",
    "least",
    "nullif",
    "num_nonnulls",
    "num_nulls",
    "row_to_json",
    "to_json",
    "to_jsonb",
    "unnest",
];

#[derive(Debug, Clone, PartialEq)]
enum Token {
    /// A name or a word of the grammar; in quotes as it stands, else in lower case.
    Word {
        text: String,
        quoted: bool,
    },
    Mark(char),
    /// A string or a digit.
    Value,
}

impl Token {
    /// Whether it is this word of the grammar.
    fn is(&self, word: &str) -> bool {
        matches!(self, Self::Word { text, quoted: false } if text == word)
    }

    fn is_mark(&self, mark: char) -> bool {
        *self == Self::Mark(mark)
    }
}

/// Checks a statement.
///
/// # Errors
/// Names what is refused, and what would be right.
pub fn check(statement: &str) -> Result<(), String> {
    let tokens = cut(statement)?;
    for (at, token) in tokens.iter().enumerate() {
        let Token::Word { text, quoted } = token else { continue };
        if text.get(..3).is_some_and(|start| start.eq_ignore_ascii_case("pg_")) {
            return Err(format!(
                "`{text}` belongs to the database server; a statement may read only the views"
            ));
        }
        if !tokens.get(at + 1).is_some_and(|next| next.is_mark('(')) {
            continue;
        }
        let before = at.checked_sub(1).and_then(|before| tokens.get(before));
        let qualified = before.is_some_and(|before| before.is_mark('.'));
        let known = FUNCTIONS.contains(&text.as_str()) || (!quoted && GRAMMAR.contains(&text.as_str()));
        let alias = before.is_some_and(|before| before.is("as")) || is_of_with(&tokens, at + 1);
        if qualified || !(known || alias) {
            return Err(format!(
                "the function `{text}` is not allowed, only functions that compute from their arguments; write AS before the name of an \
                 alias that has columns"
            ));
        }
    }
    Ok(())
}

/// Whether a list of columns begins there, and after it the query that WITH gives the name before it.
fn is_of_with(tokens: &[Token], open: usize) -> bool {
    let mut rest = tokens.iter().skip(open + 1);
    loop {
        if !matches!(rest.next(), Some(Token::Word { .. })) {
            return false;
        }
        match rest.next() {
            Some(Token::Mark(',')) => {}
            Some(Token::Mark(')')) => break,
            _ => return false,
        }
    }
    let mut rest = rest.peekable();
    if !rest.next().is_some_and(|token| token.is("as")) {
        return false;
    }
    while rest.next_if(|token| token.is("not") || token.is("materialized")).is_some() {}
    let (open_query, first) = (rest.next(), rest.next());
    let query = |token: &Token| match token {
        // A column of what a function gives may be named so, and has its type behind it.
        values if values.is("values") => rest.next().is_some_and(|token| token.is_mark('(')),
        token => ["select", "with", "table"].iter().any(|word| token.is(word)) || token.is_mark('('),
    };
    open_query.is_some_and(|token| token.is_mark('(')) && first.is_some_and(query)
}

/// What parts words and means nothing else. The server's scanner knows no other.
fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\n' | '\r' | '\x0b' | '\x0c')
}

fn is_letter(c: char) -> bool {
    c.is_ascii_alphabetic() || c == '_' || !c.is_ascii()
}

/// Cuts a statement into what means something, as the server does.
fn cut(statement: &str) -> Result<Vec<Token>, String> {
    let endless = |what: &str| format!("{what} has no end");
    let (mut tokens, mut rest) = (vec![], statement);
    let mut in_number = false;
    while let Some(c) = rest.chars().next() {
        let behind_digit = std::mem::replace(&mut in_number, c.is_ascii_digit());
        if is_space(c) {
            rest = &rest[c.len_utf8()..];
        } else if rest.starts_with("--") {
            rest = rest.find(['\n', '\r']).map_or("", |end| &rest[end..]);
        } else if rest.starts_with("/*") {
            rest = behind_comment(rest).ok_or_else(|| endless("a comment"))?;
        } else if c == '\'' {
            rest = quoted(&rest[1..], '\'').ok_or_else(|| endless("a string"))?.1;
            tokens.push(Token::Value);
        } else if c == '"' {
            let (text, behind) = quoted(&rest[1..], '"').ok_or_else(|| endless("a name in quotes"))?;
            tokens.push(Token::Word { text, quoted: true });
            rest = behind;
        } else if let Some(tag) = dollar_tag(rest) {
            let inside = &rest[tag.len()..];
            let end = inside.find(tag).ok_or_else(|| endless("a string between dollars"))?;
            rest = &inside[end + tag.len()..];
            tokens.push(Token::Value);
        } else if is_letter(c) {
            let end = rest.find(|c| !(is_letter(c) || c.is_ascii_digit() || c == '$')).unwrap_or(rest.len());
            let (word, behind) = rest.split_at(end);
            if behind_digit && !is_of_number(word) {
                return Err(format!("`{word}` directly follows a number; write a space between them"));
            }
            let escaped = word.eq_ignore_ascii_case("e") && behind.starts_with('\'')
                || word.eq_ignore_ascii_case("u") && (behind.starts_with("&'") || behind.starts_with("&\""));
            if escaped {
                return Err(
                    "strings and names with escapes (E'...', U&...) are not allowed; write them without escapes"
                        .into(),
                );
            }
            tokens.push(Token::Word { text: word.to_ascii_lowercase(), quoted: false });
            rest = behind;
        } else {
            // Digits one by one: letters that follow them are looked at as a word of their own.
            tokens.push(if c.is_ascii_digit() { Token::Value } else { Token::Mark(c) });
            rest = &rest[c.len_utf8()..];
        }
    }
    Ok(tokens)
}

/// Whether letters right behind a digit are part of the number: an exponent, another base, or digits that are set apart.
fn is_of_number(word: &str) -> bool {
    let mut bytes = word.bytes();
    match bytes.next() {
        Some(b'e' | b'E') => bytes.all(|b| b.is_ascii_digit()),
        Some(b'x' | b'X' | b'o' | b'O' | b'b' | b'B') => bytes.all(|b| b.is_ascii_hexdigit() || b == b'_'),
        Some(b'_') => bytes.all(|b| b.is_ascii_digit() || b == b'_'),
        _ => false,
    }
}

/// What stands up to the closing quote, and what follows it. A quote that is written twice is one of the text.
fn quoted(mut rest: &str, quote: char) -> Option<(String, &str)> {
    let mut text = String::new();
    loop {
        let (before, behind) = rest.split_once(quote)?;
        text.push_str(before);
        match behind.strip_prefix(quote) {
            Some(more) => {
                text.push(quote);
                rest = more;
            }
            None => return Some((text, behind)),
        }
    }
}

/// What follows a comment, which may have others in it.
fn behind_comment(mut rest: &str) -> Option<&str> {
    let mut depth = 0usize;
    loop {
        let at = rest.find(['/', '*'])?;
        rest = &rest[at..];
        if let Some(inside) = rest.strip_prefix("/*") {
            (depth, rest) = (depth + 1, inside);
        } else if let Some(behind) = rest.strip_prefix("*/") {
            (depth, rest) = (depth - 1, behind);
            if depth == 0 {
                return Some(rest);
            }
        } else {
            rest = &rest[1..];
        }
    }
}

/// `$$` or `$name$`, if that is what begins here.
fn dollar_tag(rest: &str) -> Option<&str> {
    let inside = rest.strip_prefix('$')?;
    let end = inside.find('$')?;
    let name = &inside[..end];
    let letters = name.chars().all(|c| is_letter(c) || c.is_ascii_digit());
    (letters && !name.starts_with(|c: char| c.is_ascii_digit())).then(|| &rest[..end + 2])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_that_reckon_are_let_through() {
        for statement in [
            "SELECT device, count(*) AS n, avg(mean) FILTER (WHERE count > 3) FROM windows GROUP BY 1 ORDER BY 2 DESC",
            "SELECT date_trunc('hour', start), sum(sum) OVER (PARTITION BY device ORDER BY start) FROM minute",
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 9) SELECT i FROM n",
            "WITH a(x, y) AS NOT MATERIALIZED (VALUES (1, 2)) TABLE a",
            "SELECT * FROM (VALUES (1), (2)) AS v(x) WHERE x IN (1, 2) AND NOT (x = 3)",
            "SELECT g FROM generate_series(1, 3) AS g(x)",
            "SELECT CASE WHEN (1 = 1) THEN (2) ELSE (3) END, CAST(1 AS numeric(10, 2)), '1'::varchar(3), 1e5, 0.5",
            "SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY mean) FROM windows -- pg_sleep(1)",
            "SELECT 'pg_sleep(1)', $$ set_config( $$, $a$ $$ pg_x( $a$, 'it''s set_config(' /* /* lo_import( */ pg_ */",
            "SELECT \"Sum\" FROM (SELECT 1 AS \"Sum\") AS t",
            "SELECT EXTRACT(epoch FROM start), \"count\"(*) FROM windows",
            "SELECT 1e5, 1.5E3, 2e-7, 0x1F, 1_000 AS \u{e4}\u{a0}b",
        ] {
            assert_eq!(check(statement), Ok(()), "{statement}");
        }
    }

    #[test]
    fn what_acts_is_refused_however_it_is_written() {
        for (statement, named) in [
            (
                "SELECT CASE WHEN g=1 THEN set_config('statement_timeout','0',false) END FROM generate_series(1,6) g",
                "set_config",
            ),
            ("SELECT SET_CONFIG('a', 'b', true)", "set_config"),
            ("SELECT set_config /* x */ -- y\n ('a', 'b', true)", "set_config"),
            ("SELECT \"set_config\"('a', 'b', true)", "set_config"),
            ("SELECT U&\"set\\005fconfig\"('a', 'b', true)", "escapes"),
            ("SELECT E'\\'', set_config('a', 'b', true)", "escapes"),
            ("SELECT DISTINCT ON (1) set_config(a, b, c) FROM x", "set_config"),
            ("SELECT 1set_config(a, b, c)", "set_config"),
            ("SELECT set_config(a, b) AS (x)", "set_config"),
            ("SELECT * FROM dblink('') AS (x int)", "dblink"),
            ("SELECT * FROM dblink(a) AS (x int)", "dblink"),
            ("SELECT pg_sleep(60)", "pg_sleep"),
            ("SELECT pg_catalog.sum(1)", "pg_catalog"),
            ("SELECT public.sum(1)", "sum"),
            ("SELECT (x).\"PG_sleep\"", "PG_sleep"),
            ("TABLE pg_stat_activity", "pg_stat_activity"),
            ("SELECT lo_import('/etc/passwd')", "lo_import"),
            ("SELECT query_to_xml('select 1', true, true, '')", "query_to_xml"),
            ("SELECT repeat('x', 1000000000)", "repeat"),
            ("SELECT lpad('x', 1000000000)", "lpad"),
            ("SELECT format('%1000000000s', 'x')", "format"),
            // To the server a space that breaks no line is a letter, and `$$` behind it part of a name.
            ("SELECT 1 AS \u{a0}$$, set_config('a', 'b', false) AS x$$", "set_config"),
            ("SELECT 1 AS \u{3000}$$, pg_sleep(9) AS x$$", "pg_sleep"),
            // A column may be named `values`.
            ("SELECT * FROM dblink(a, b) AS (values text)", "dblink"),
            ("SELECT 1e5$$'$$ set_config(a, b, c) --'", "directly follows a number"),
            ("SELECT 'a", "a string has no end"),
            ("SELECT /* /* */", "a comment has no end"),
            ("SELECT $a$ $$", "between dollars"),
            ("SELECT \"a", "quotes has no end"),
        ] {
            let said = check(statement).unwrap_err();
            assert!(said.contains(named), "{statement}: {said}");
        }
    }
}
