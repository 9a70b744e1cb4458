//! Pictures of reports: one value of each over another, a line for each label, as SVG.

use clap::Args;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::PathBuf;

const WIDTH: f64 = 780.0;
const HEIGHT: f64 = 400.0;
const LEFT: f64 = 84.0;
const RIGHT: f64 = 210.0;
const TOP: f64 = 44.0;
const BOTTOM: f64 = 52.0;
/// Told apart also by those who see fewer colours (Okabe and Ito 2008).
const COLOURS: [&str; 6] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"];

/// The most reports of one picture.
pub const MAX_REPORTS_ENTRIES: usize = 10_000;

/// Draw reports of `bench --json` as an SVG picture.
#[derive(Debug, Clone, Args)]
pub struct Picture {
    /// Files of reports, one JSON object per line.
    #[arg(required = true, value_name = "FILE.jsonl")]
    pub files: Vec<PathBuf>,
    /// Horizontal axis, as a path in a report.
    #[arg(long, default_value = "plan.connections", value_name = "PATH")]
    pub x: String,
    /// Vertical axis, as a path in a report.
    #[arg(long, default_value = "acked_per_s", value_name = "PATH")]
    pub y: String,
    /// What distinguishes the lines, as a path in a report.
    #[arg(long, default_value = "plan.label", value_name = "PATH")]
    pub line: String,
    /// Label of the horizontal axis; the path by default.
    #[arg(long)]
    pub x_name: Option<String>,
    /// Label of the vertical axis; the path by default.
    #[arg(long)]
    pub y_name: Option<String>,
    /// Heading of the picture.
    #[arg(long, default_value = "")]
    pub title: String,
    /// Make the horizontal axis logarithmic.
    #[arg(long)]
    pub log_x: bool,
    /// Make the vertical axis logarithmic.
    #[arg(long)]
    pub log_y: bool,
    /// Write the picture to this file.
    #[arg(long, value_name = "FILE.svg")]
    pub out: PathBuf,
}

/// The reports of some files.
///
/// # Errors
/// Names the file and line that can't be read.
pub fn read_reports(files: &[PathBuf]) -> Result<Vec<Value>, String> {
    let mut reports = Vec::new();
    for file in files {
        let text = std::fs::read_to_string(file).map_err(|e| format!("{}: {e}", file.display()))?;
        for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            let report = serde_json::from_str(line)
                .map_err(|e| format!("{}, line {}: {e}", file.display(), number + 1))?;
            reports.push(report);
            if reports.len() > MAX_REPORTS_ENTRIES {
                return Err(format!("more than {MAX_REPORTS_ENTRIES} reports; give fewer files"));
            }
        }
    }
    Ok(reports)
}

/// A line's name and its points, from left to right.
type Lines = BTreeMap<String, Vec<(f64, f64)>>;

impl Picture {
    /// Reads, draws and writes.
    ///
    /// # Errors
    /// Names the file and line, or the path that a report does not have.
    pub fn make(&self) -> Result<(), String> {
        let reports = read_reports(&self.files)?;
        let svg = self.draw(&self.lines(&reports)?)?;
        std::fs::write(&self.out, svg).map_err(|e| format!("{}: {e}", self.out.display()))
    }

    fn lines(&self, reports: &[Value]) -> Result<Lines, String> {
        let at = |report: &Value, path: &str| {
            let found = path.split('.').try_fold(report.clone(), |value, key| value.get(key).cloned());
            found.ok_or_else(|| {
                format!("a report has no {path:?}; look into the file for the paths that it has")
            })
        };
        let number = |report: &Value, path: &str| {
            let value = at(report, path)?;
            value.as_f64().ok_or_else(|| format!("{path:?} is {value}, which is not a number"))
        };
        let mut lines = Lines::new();
        for report in reports {
            let name = at(report, &self.line)?;
            let name = name.as_str().map_or_else(|| name.to_string(), str::to_string);
            lines.entry(name).or_default().push((number(report, &self.x)?, number(report, &self.y)?));
        }
        for points in lines.values_mut() {
            points.sort_by(|a, b| a.0.total_cmp(&b.0));
        }
        Ok(lines)
    }

    fn draw(&self, lines: &Lines) -> Result<String, String> {
        let all = || lines.values().flatten();
        let x = Axis::over(all().map(|p| p.0), self.log_x, LEFT, WIDTH - RIGHT)?;
        let y = Axis::over(all().map(|p| p.1), self.log_y, HEIGHT - BOTTOM, TOP)?;
        let mut svg = String::new();
        let mut add = |text: std::fmt::Arguments<'_>| {
            let written = svg.write_fmt(text).and_then(|()| svg.write_char('\n'));
            debug_assert!(written.is_ok(), "writing to memory does not fail");
        };
        add(format_args!(
            r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{title}">
<style>svg {{ background: #fff; color: #222; font: 12px sans-serif }} .grid {{ stroke: #8884 }} text {{ fill: currentColor }}
@media (prefers-color-scheme: dark) {{ svg {{ background: #16181c; color: #ddd }} }}</style>
<text x="{LEFT}" y="20" font-size="15" font-weight="bold">{title}</text>"##,
            title = escaped(&self.title)
        ));
        for tick in x.ticks() {
            let (at, bottom) = (x.place(tick), HEIGHT - BOTTOM);
            add(format_args!(r#"<line class="grid" x1="{at:.1}" x2="{at:.1}" y1="{TOP}" y2="{bottom}"/>"#));
            add(format_args!(
                r#"<text x="{at:.1}" y="{}" text-anchor="middle">{}</text>"#,
                bottom + 18.0,
                short(tick)
            ));
        }
        for tick in y.ticks() {
            let (at, right) = (y.place(tick), WIDTH - RIGHT);
            add(format_args!(r#"<line class="grid" x1="{LEFT}" x2="{right}" y1="{at:.1}" y2="{at:.1}"/>"#));
            add(format_args!(
                r#"<text x="{}" y="{:.1}" text-anchor="end">{}</text>"#,
                LEFT - 8.0,
                at + 4.0,
                short(tick)
            ));
        }
        let x_name = escaped(self.x_name.as_ref().unwrap_or(&self.x));
        let y_name = escaped(self.y_name.as_ref().unwrap_or(&self.y));
        let middle = f64::midpoint(LEFT, WIDTH - RIGHT);
        add(format_args!(r#"<text x="{middle}" y="{}" text-anchor="middle">{x_name}</text>"#, HEIGHT - 14.0));
        add(format_args!(r#"<text x="{LEFT}" y="{}">{y_name}</text>"#, TOP - 8.0));
        for (index, (name, points)) in lines.iter().enumerate() {
            let colour = COLOURS[index % COLOURS.len()];
            let place = |(px, py): &(f64, f64)| format!("{:.1},{:.1}", x.place(*px), y.place(*py));
            let path: Vec<String> = points.iter().map(place).collect();
            add(format_args!(
                r#"<polyline fill="none" stroke="{colour}" stroke-width="2" points="{}"/>"#,
                path.join(" ")
            ));
            for (px, py) in points {
                add(format_args!(
                    r#"<circle fill="{colour}" r="3" cx="{:.1}" cy="{:.1}"><title>{px}: {py}</title></circle>"#,
                    x.place(*px),
                    y.place(*py)
                ));
            }
            let (at, row) = (WIDTH - RIGHT + 14.0, TOP + 18.0 * index as f64);
            add(format_args!(r#"<rect fill="{colour}" x="{at}" y="{row}" width="12" height="12"/>"#));
            add(format_args!(r#"<text x="{}" y="{}">{}</text>"#, at + 18.0, row + 10.0, escaped(name)));
        }
        add(format_args!("</svg>"));
        Ok(svg)
    }
}

/// A scale from values to places.
struct Axis {
    log: bool,
    least: f64,
    most: f64,
    from: f64,
    to: f64,
}

impl Axis {
    fn over(
        values: impl Iterator<Item = f64> + Clone,
        log: bool,
        from: f64,
        to: f64,
    ) -> Result<Self, String> {
        if values.clone().next().is_none() {
            return Err("there is nothing to draw: the files hold no reports".into());
        }
        let most = values.clone().fold(f64::MIN, f64::max);
        if log {
            let least = values.filter(|v| *v > 0.0).fold(f64::MAX, f64::min).min(most);
            if least <= 0.0 {
                return Err("a logarithmic axis needs values above 0".into());
            }
            let most = if most > least { most } else { least * 10.0 };
            return Ok(Self { log, least, most, from, to });
        }
        // Lengths are compared by eye, so the scale begins at 0.
        let least = values.fold(0.0, f64::min);
        let most = if most > least { most } else { least + 1.0 };
        Ok(Self { log, least, most: most + (most - least) * 0.05, from, to })
    }

    fn place(&self, value: f64) -> f64 {
        let part = match self.log {
            true => (value.max(self.least) / self.least).ln() / (self.most / self.least).ln(),
            false => (value - self.least) / (self.most - self.least),
        };
        self.from + part * (self.to - self.from)
    }

    fn ticks(&self) -> Vec<f64> {
        if self.log {
            let decades = self.least.log10().floor() as i32..=self.most.log10().ceil() as i32;
            let within = |t: &f64| *t >= self.least * 0.999 && *t <= self.most * 1.001;
            return decades.map(|d| 10_f64.powi(d)).filter(within).collect();
        }
        let rough = (self.most - self.least) / 5.0;
        let power = 10_f64.powf(rough.log10().floor());
        let step =
            [1.0, 2.0, 5.0, 10.0].map(|m| m * power).into_iter().find(|s| *s >= rough).unwrap_or(rough);
        let first = (self.least / step).ceil() as i64;
        (first..).map(|i| i as f64 * step).take_while(|t| *t <= self.most).collect()
    }
}

fn short(value: f64) -> String {
    let (scaled, unit) = match value.abs() {
        v if v >= 1e6 => (value / 1e6, " M"),
        v if v >= 1e4 => (value / 1e3, " k"),
        _ => (value, ""),
    };
    let text = format!("{scaled:.3}");
    format!("{}{unit}", text.trim_end_matches('0').trim_end_matches('.'))
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picture(folder: &std::path::Path, reports: &str) -> Picture {
        let file = folder.join("r.jsonl");
        std::fs::write(&file, reports).unwrap();
        Picture {
            files: vec![file],
            x: "plan.connections".into(),
            y: "acked_per_s".into(),
            line: "plan.label".into(),
            x_name: None,
            y_name: None,
            title: "a < b".into(),
            log_x: true,
            log_y: false,
            out: folder.join("p.svg"),
        }
    }

    #[test]
    fn every_report_is_a_point_on_its_line() {
        let folder = tempfile::tempdir().unwrap();
        let report = |label: &str, n: u32, y: f64| {
            format!(r#"{{"plan":{{"label":"{label}","connections":{n}}},"acked_per_s":{y}}}"#)
        };
        let reports = [report("a&b", 100, 3e5), report("a&b", 1, 1e5), report("c", 10, 2e5)].join("\n");
        let picture = picture(folder.path(), &reports);
        picture.make().unwrap();
        let svg = std::fs::read_to_string(&picture.out).unwrap();
        assert_eq!((svg.matches("<polyline").count(), svg.matches("<circle").count()), (2, 3));
        assert!(svg.contains("a &lt; b") && svg.contains(">a&amp;b<"), "{svg}");
        // From left to right, and higher where there is more.
        assert!(svg.contains(r#"points="84.0,"#), "{svg}");
        for tick in ["100 k", "200 k", "300 k", ">1<", ">10<", ">100<"] {
            assert!(svg.contains(tick), "{tick} in {svg}");
        }
    }

    #[test]
    fn what_can_not_be_drawn_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let said = |reports: &str| picture(folder.path(), reports).make().unwrap_err();
        assert!(said("").contains("nothing to draw"));
        assert!(said("{").contains("r.jsonl, line 1"));
        assert!(said(r#"{"acked_per_s":1}"#).contains("plan.label"));
    }
}
