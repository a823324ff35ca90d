//! Metrics in Prometheus' text format 0.0.4: names, help, type, samples.

use std::fmt::{Display, Write};

/// A page of metrics being written.
#[derive(Default)]
pub struct Page(String);

impl Page {
    /// Begins a metric; its samples follow.
    pub fn metric(&mut self, name: &str, kind: &str, help: &str) {
        _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    pub fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) {
        self.0.push_str(name);
        for (n, (label, text)) in labels.iter().enumerate() {
            self.0.push(if n == 0 { '{' } else { ',' });
            _ = write!(self.0, "{label}=\"{}\"", escaped(text));
        }
        if !labels.is_empty() {
            self.0.push('}');
        }
        _ = writeln!(self.0, " {value}");
    }

    pub fn finish(self) -> String {
        self.0
    }
}

fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_reads_as_the_format_says() {
        let mut page = Page::default();
        page.metric("farside_x", "gauge", "Some x.");
        page.sample("farside_x", &[("target", "a\"b\\c\nd"), ("kind", "real")], 1.5);
        page.sample("farside_x", &[], 2);
        let text = "# HELP farside_x Some x.\n# TYPE farside_x gauge\n\
                    farside_x{target=\"a\\\"b\\\\c\\nd\",kind=\"real\"} 1.5\nfarside_x 2\n";
        assert_eq!(page.finish(), text);
    }
}
