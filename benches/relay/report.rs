//! The table: Markdown, so that it can be put into `docs/benchmarks.md` as it is.

use super::Target;
use super::stage::Sample;

/// One scenario on one transport.
pub struct Row {
    pub name: String,
    pub target: Target,
    /// Of the floor, and of the gateway.
    pub samples: [Vec<Sample>; 2],
}

const WIDTHS: [usize; 14] = [35, 7, 6, 6, 5, 11, 5, 6, 6, 5, 6, 6, 5, 14];
const HEADS: [&str; 14] = [
    "scenario", "per s", "CPU us", "floor", "ratio", "best us", "ratio", "p50 us", "floor",
    "ratio", "p99 us", "floor", "lost", "target",
];

pub fn head() {
    line(HEADS.map(str::to_owned));
    println!("|{}|", WIDTHS.map(|width| "-".repeat(width + 2)).join("|"));
}

pub fn print(row: &Row) {
    let [floor, gateway] = &row.samples;
    let of = |samples: &[Sample], what: fn(&Sample) -> f64| median(samples.iter().map(what));
    let cpu = (of(gateway, |s| s.cpu_us), of(floor, |s| s.cpu_us));
    let p50 = (of(gateway, |s| s.p50_us), of(floor, |s| s.p50_us));
    let p99 = (of(gateway, |s| s.p99_us), of(floor, |s| s.p99_us));
    let (cpu_ratio, p50_ratio) = (cpu.0 / cpu.1, p50.0 / p50.1);
    // Other load only ever adds: where the machine is busy, the best rounds say more.
    let best = |samples: &[Sample]| samples.iter().map(|s| s.cpu_us).fold(f64::MAX, f64::min);
    let best = (best(gateway), best(floor));
    let lost = |samples: &[Sample]| samples.iter().map(|s| s.lost + s.misplaced).sum::<u64>();
    let verdict = match row.target {
        Target::Cpu(most) => verdict("CPU", cpu_ratio, most),
        Target::Latency(most) => verdict("p50", p50_ratio, most),
    };
    line([
        row.name.clone(),
        format!("{:.0}", of(gateway, |s| s.rate)),
        format!("{:.2}", cpu.0),
        format!("{:.2}", cpu.1),
        format!("{cpu_ratio:.2}"),
        format!("{:.2}/{:.2}", best.0, best.1),
        format!("{:.2}", best.0 / best.1),
        format!("{:.0}", p50.0),
        format!("{:.0}", p50.1),
        format!("{p50_ratio:.2}"),
        format!("{:.0}", p99.0),
        format!("{:.0}", p99.1),
        format!("{}/{}", lost(gateway), lost(floor)),
        verdict,
    ]);
}

fn verdict(what: &str, ratio: f64, most: f64) -> String {
    format!("{what} {most} {}", if ratio <= most { "met" } else { "MISSED" })
}

fn line(cells: [String; 14]) {
    let padded: Vec<_> = cells
        .iter()
        .zip(WIDTHS)
        .enumerate()
        .map(|(at, (cell, width))| match at {
            0 => format!("{cell:<width$}"),
            _ => format!("{cell:>width$}"),
        })
        .collect();
    println!("| {} |", padded.join(" | "));
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<_> = values.collect();
    values.sort_unstable_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}
