//! The plot: each row relative to its target, where 1 is the target and more is better.

use crate::report::Row;

/// Longer bars are cut off, with an arrow.
const MAX_REACHED: f64 = 3.0;
const LINE: usize = 24;
const TEXT_WIDTH: f64 = 420.0;
const BAR_WIDTH: f64 = 420.0;

/// An SVG picture. Rows without a target are left out.
pub(crate) fn draw(rows: &[Row]) -> String {
    let bars: Vec<(&Row, f64)> = rows.iter().filter_map(|row| Some((row, row.reached()?))).collect();
    let (width, height) = (TEXT_WIDTH + BAR_WIDTH + 80.0, (bars.len() + 3) * LINE);
    let x = |reached: f64| TEXT_WIDTH + reached.min(MAX_REACHED) / MAX_REACHED * BAR_WIDTH;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" font-family=\"sans-serif\" \
         font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n\
         <text x=\"12\" y=\"20\" font-size=\"14\">Figures relative to their targets: 1 is the target, more is better</text>\n"
    );
    for (index, (row, reached)) in bars.iter().enumerate() {
        let y = (index + 1) * LINE + 12;
        let colour = if *reached >= 1.0 { "#2f7d4f" } else { "#b3402e" };
        let end = x(*reached);
        let arrow = if *reached > MAX_REACHED { "\u{2192} " } else { "" };
        svg.push_str(&format!(
            "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{}</text>\n\
             <rect x=\"{TEXT_WIDTH}\" y=\"{y}\" width=\"{:.1}\" height=\"14\" fill=\"{colour}\"/>\n\
             <text x=\"{:.1}\" y=\"{}\">{arrow}{reached:.2}</text>\n",
            TEXT_WIDTH - 8.0,
            y + 11,
            escaped(&row.what),
            end - TEXT_WIDTH,
            end + 6.0,
            y + 11,
        ));
    }
    let (line, bottom) = (x(1.0), (bars.len() + 1) * LINE + 12);
    svg.push_str(&format!(
        "<line x1=\"{line:.1}\" x2=\"{line:.1}\" y1=\"32\" y2=\"{bottom}\" stroke=\"#222\" stroke-dasharray=\"4 3\"/>\n\
         <text x=\"{line:.1}\" y=\"{}\" text-anchor=\"middle\">target</text>\n</svg>\n",
        bottom + 16,
    ));
    svg
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}
