//! `/v1/gaps`: the gaps between the first and the last window of each stream, and the holes of shards that may have
//! caused them.

use super::aggregates;
use super::problem::Failure;
use super::routes::Asker;
use super::scan::of_another_query;
use super::whole::{self, Pages};
use super::{Api, Given, answer};
use crate::store::Hole;
use crate::store::find::Seek;
use actix_web::{HttpRequest, HttpResponse, web};
use selvedge_node_core::gaps::{Gap, Gaps};
use selvedge_node_core::params::{WantedStreams, WindowPlace};
use selvedge_node_core::stored::SeriesInfo;
use selvedge_node_core::table::{Cell, ColumnKind, Field, Form, Table};
use selvedge_types::params::{MAX_LIMIT_ENTRIES, Parameters, bad};
use selvedge_types::time::{EpochMs, duration_text};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::time::SystemTime;

/// The parameters of `/v1/gaps`.
pub const PARAMETERS: [&str; 11] =
    ["site", "device", "stream", "q", "from", "to", "width", "min", "limit", "after", "format"];

/// How many starts of windows are read at a time.
const READ_ENTRIES: u32 = 20_000;

/// How many windows one answer scans before it ends with a `next`.
pub const SCAN_ENTRIES: usize = 1_000_000;

/// Each stream counts as this many scanned windows, besides those found.
const SEEK_ENTRIES: usize = 20;

/// The most holes in one answer: those found last.
pub const MAX_HOLES_ENTRIES: u32 = 1_000;

pub(super) async fn gaps(
    api: web::Data<Api>,
    Asker(caller): Asker,
    request: HttpRequest,
    given: Given,
) -> Result<HttpResponse, Failure> {
    let p = Parameters::new(given.into_inner(), &PARAMETERS)?;
    let form = answer::form(&request, &p)?;
    let (from, to) = p.from_to()?;
    let page = answer::is_page(form, &p);
    let ask = Ask {
        from,
        to,
        width_ms: p.duration("width")?,
        min_ms: p.duration("min")?.unwrap_or(0),
        limit: if page { p.limit()? } else { MAX_LIMIT_ENTRIES } as usize,
        after: p.after(WindowPlace::parse)?,
        now: EpochMs::from(SystemTime::now()),
    };
    let seek = Seek { sites: caller.sites, wanted: WantedStreams::read(&p)? };
    let series = ask.choose(aggregates::series(&api, &seek).await?)?;
    if !page {
        return whole::rows(&api, form, AllPages { api: api.clone(), series, ask: Some(ask) }).await;
    }
    let sites: BTreeSet<String> = series.iter().map(|s| s.site.clone()).collect();
    let mut table = GapTable::new();
    let next = find(&api, &ask, &series, &mut table).await?;
    // The node does not know which shard a device belongs to, so the answer has all holes of its site. A hole is found
    // after its batches were lost.
    let holes = if form == Form::Json {
        let sites: Vec<String> = sites.into_iter().collect();
        api.reader.find_holes(&sites, from, MAX_HOLES_ENTRIES).await?
    } else {
        vec![]
    };
    let holes = Some(("holes", holes.iter().map(hole_as_json).collect()));
    Ok(answer::rows(&request, form, "gaps", &table, next.map(|place| place.to_string()), holes))
}

pub(super) fn hole_as_json(hole: &Hole) -> Value {
    let lost = hole.lost.as_ref();
    json!({
        "site": hole.site, "shard": hole.shard, "first_seq": hole.first, "last_seq": hole.last,
        "batches": hole.last.saturating_sub(hole.first).saturating_add(1),
        "found": hole.found.to_string(), "found_ms": hole.found.0,
        "lost_at_site": lost.is_some(), "readings": lost.map(|lost| lost.readings), "parts": lost.map(|lost| lost.parts),
        "windows_from": lost.map(|lost| lost.from.to_string()), "windows_to": lost.map(|lost| lost.to.to_string()),
    })
}

struct Ask {
    from: EpochMs,
    to: EpochMs,
    width_ms: Option<i64>,
    min_ms: i64,
    limit: usize,
    after: Option<WindowPlace>,
    now: EpochMs,
}

/// All pages of a query.
struct AllPages {
    api: web::Data<Api>,
    series: Vec<SeriesInfo>,
    /// The rest of the query; `None` after the last page.
    ask: Option<Ask>,
}

impl Pages for AllPages {
    type Page = GapTable;

    async fn next(&mut self) -> Result<Option<GapTable>, Failure> {
        let Some(mut ask) = self.ask.take() else { return Ok(None) };
        let mut table = GapTable::new();
        let next = find(&self.api, &ask, &self.series, &mut table).await?;
        if next.is_some() {
            ask.after = next;
            self.ask = Some(ask);
        }
        Ok(Some(table))
    }
}

impl Ask {
    /// For each stream its narrowest series, or the one of the requested width, in the order of names.
    fn choose(&self, series: Vec<SeriesInfo>) -> Result<Vec<SeriesInfo>, Failure> {
        let mut chosen: Vec<SeriesInfo> = vec![];
        let any = !series.is_empty();
        for one in series {
            let known = chosen
                .last()
                .is_some_and(|s| (&s.site, &s.device, &s.stream) == (&one.site, &one.device, &one.stream));
            if self.width_ms.is_none_or(|width| width == one.width_ms) && !known {
                chosen.push(one);
            }
        }
        if let Some(width) = self.width_ms.filter(|_| any && chosen.is_empty()) {
            let why =
                format!("{} is not a width at which one of these streams is stored", duration_text(width));
            return Err(bad("width", why).into());
        }
        Ok(chosen)
    }
}

/// Adds the gaps of one series after the other. Returns where to continue if the answer is full before the end.
async fn find(
    api: &Api,
    ask: &Ask,
    series: &[SeriesInfo],
    table: &mut GapTable,
) -> Result<Option<WindowPlace>, Failure> {
    let resume = ask.after.map(|after| series.iter().position(|s| s.id == after.series));
    if resume == Some(None) {
        return Err(of_another_query());
    }
    let mut scanned = 0;
    for one in series.iter().skip(resume.flatten().unwrap_or(0)) {
        let after = ask.after.filter(|after| after.series == one.id);
        let from = after.map_or(ask.from, |after| ask.from.max(after.start));
        if table.rows.len() >= ask.limit || scanned >= SCAN_ENTRIES {
            return Ok(Some(WindowPlace { series: one.id, start: from }));
        }
        // A window ahead of its time does not end a gap: the stream has not come that far.
        let newest = api.reader.newest_start(one.id, ask.now).await?;
        let to = newest.map_or(from, |newest| ask.to.min(newest.plus(1)));
        let before = api.reader.before(one.id, from).await?;
        let mut gaps = Gaps::new(one.width_ms, from, before);
        let mut next = Some(from).filter(|from| *from < to);
        while let Some(start) = next {
            let starts = api.reader.starts(one.id, start, to, READ_ENTRIES).await?;
            for start in &starts {
                if table.rows.len() >= ask.limit {
                    return Ok(Some(WindowPlace { series: one.id, start: gaps.reached() }));
                }
                table.push(one, gaps.push(*start), ask.min_ms);
            }
            scanned += starts.len();
            next = starts.last().filter(|_| starts.len() == READ_ENTRIES as usize).map(|s| s.plus(1));
            if next.is_some() && scanned >= SCAN_ENTRIES {
                return Ok(Some(WindowPlace { series: one.id, start: gaps.reached() }));
            }
        }
        if newest.is_some_and(|newest| newest >= ask.to) {
            if table.rows.len() >= ask.limit {
                return Ok(Some(WindowPlace { series: one.id, start: gaps.reached() }));
            }
            table.push(one, gaps.finish(ask.to), ask.min_ms);
        }
        scanned += SEEK_ENTRIES;
    }
    Ok(None)
}

struct GapTable {
    fields: Vec<Field>,
    rows: Vec<(SeriesInfo, Gap)>,
}

/// The columns of a gap, with their meaning.
pub fn fields() -> Vec<Field> {
    let fields = [
        ("site", ColumnKind::Text, "The site."),
        ("device", ColumnKind::Text, "The device."),
        ("stream", ColumnKind::Text, "The stream."),
        ("width_ms", ColumnKind::Whole, "The width of the missing windows, in milliseconds."),
        ("from", ColumnKind::Time, "The end of the window before it, or `from`."),
        ("from_ms", ColumnKind::Whole, "The same in milliseconds since 1970."),
        ("to", ColumnKind::Time, "The start of the window after it, or `to`."),
        ("to_ms", ColumnKind::Whole, "The same in milliseconds since 1970."),
        (
            "windows",
            ColumnKind::Whole,
            "The number of windows that fit into the gap; null if more than a year lies between two windows, because a clock was wrong.",
        ),
    ];
    fields.map(|(name, kind, meaning)| Field::new(name, kind).meaning(meaning)).into()
}

impl GapTable {
    fn new() -> Self {
        Self { fields: fields(), rows: vec![] }
    }

    fn push(&mut self, series: &SeriesInfo, gap: Option<Gap>, min_ms: i64) {
        let gap = gap.filter(|gap| gap.length_ms() >= min_ms);
        self.rows.extend(gap.map(|gap| (series.clone(), gap)));
    }
}

impl Table for GapTable {
    fn fields(&self) -> &[Field] {
        &self.fields
    }

    fn rows(&self) -> usize {
        self.rows.len()
    }

    fn cell(&self, row: usize, field: usize) -> Cell<'_> {
        let Some((series, gap)) = self.rows.get(row) else { return Cell::Null };
        match field {
            0 => Cell::Text(&series.site),
            1 => Cell::Text(&series.device),
            2 => Cell::Text(&series.stream),
            3 => Cell::Whole(series.width_ms),
            4 => Cell::Time(gap.from),
            5 => Cell::Whole(gap.from.0),
            6 => Cell::Time(gap.to),
            7 => Cell::Whole(gap.to.0),
            _ => gap.windows(series.width_ms).map_or(Cell::Null, Cell::Whole),
        }
    }
}
