//! Numbers as people read them.

/// A count: 1,234,567.
pub(crate) fn count(value: u64) -> String {
    let digits = value.to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A size in decimal units: 12.3 MB.
pub(crate) fn bytes(value: u64) -> String {
    scaled(value, ["B", "kB", "MB", "GB", "TB"])
}

/// A number of operations: 1.2 M.
pub(crate) fn operations(value: u64) -> String {
    scaled(value, ["", "k", "M", "G", "T"])
}

fn scaled(value: u64, units: [&str; 5]) -> String {
    let mut scaled = value as f64;
    let mut unit = 0;
    while scaled >= 999.95 && unit + 1 < units.len() {
        scaled /= 1000.0;
        unit += 1;
    }
    let text = if unit == 0 { format!("{value} {}", units[0]) } else { format!("{scaled:.1} {}", units[unit]) };
    text.trim_end().to_owned()
}

/// The change from one figure to another: -40.0 %.
pub(crate) fn change(before: f64, after: f64) -> String {
    if before > 0.0 { format!("{:+.1} %", 100.0 * (after / before - 1.0)) } else { "-".to_owned() }
}

/// A duration in seconds.
pub(crate) fn seconds(value: f64) -> String {
    match value {
        v if v < 0.01 => format!("{:.2} ms", 1e3 * v),
        v if v < 1.0 => format!("{:.0} ms", 1e3 * v),
        v if v < 100.0 => format!("{v:.2} s"),
        v if v < 10_000.0 => format!("{v:.0} s"),
        v => format!("{:.1} h", v / 3600.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_as_people_read_them() {
        assert_eq!([0, 999, 1000, 1_234_567].map(count), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!([999, 1000, 999_960, 12_345_678].map(bytes), ["999 B", "1.0 kB", "1.0 MB", "12.3 MB"]);
        assert_eq!([12, 1500].map(operations), ["12", "1.5 k"]);
        assert_eq!(change(10.0, 6.0), "-40.0 %");
        assert_eq!(change(0.0, 6.0), "-");
        let durations = [0.0012, 0.5, 2.5, 300.0, 36_000.0];
        assert_eq!(durations.map(seconds), ["1.20 ms", "500 ms", "2.50 s", "300 s", "10.0 h"]);
    }
}
