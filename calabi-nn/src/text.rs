//! Names and shapes from files, made fit for a message.

/// How many characters of a name a message shows.
const LONGEST: usize = 80;

/// The name with control characters escaped, cut where it is long.
pub(crate) fn shown(name: &str) -> String {
    let mut escaped: String = name.chars().take(LONGEST).flat_map(char::escape_debug).collect();
    if name.chars().nth(LONGEST).is_some() {
        escaped.push_str("...");
    }
    escaped
}

/// A shape as `[8, 64]`, cut where it has many dimensions.
pub(crate) fn dims<T: AsRef<str>>(dims: &[T]) -> String {
    let mut shown: Vec<_> = dims.iter().take(16).map(|dim| shown(dim.as_ref())).collect();
    if dims.len() > 16 {
        shown.push("...".to_owned());
    }
    format!("[{}]", shown.join(", "))
}

/// A shape of numbers, as [`dims`] shows it.
pub(crate) fn shape(shape: &[usize]) -> String {
    dims(&shape.iter().map(ToString::to_string).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_escaped_and_long_names_cut() {
        assert_eq!(shown("image"), "image");
        assert_eq!(shown("a\u{1b}[2Jb"), "a\\u{1b}[2Jb");
        assert_eq!(shown(&"é".repeat(81)), "é".repeat(80) + "...");
    }

    #[test]
    fn long_shapes_are_cut() {
        assert_eq!(shape(&[3, 4]), "[3, 4]");
        assert_eq!(shape(&[]), "[]");
        assert!(shape(&[1; 1000]).ends_with("1, ...]"));
    }
}
