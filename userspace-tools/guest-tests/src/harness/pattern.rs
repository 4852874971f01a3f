// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Which tests are wanted.

/// Whether `name` contains `pattern`, or, if that has a `*`, matches it as a whole.
pub fn fits(pattern: &str, name: &str) -> bool {
    let mut parts = pattern.split('*');
    let (Some(first), Some(last)) = (parts.next(), parts.next_back()) else {
        return name.contains(pattern);
    };
    let Some(mut rest) = name.strip_prefix(first) else {
        return false;
    };
    for part in parts {
        match rest.split_once(part) {
            Some((_, behind)) => rest = behind,
            None => return false,
        }
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::fits;

    #[test]
    fn patterns() {
        for (pattern, name) in [
            ("read", "zfile.read.text"),
            ("", "anything"),
            ("*", "anything"),
            ("zfile.*", "zfile.read"),
            ("*.text", "zfile.read.text"),
            ("z*read*text", "zfile.read.text"),
        ] {
            assert!(fits(pattern, name), "{pattern} {name}");
        }
        for (pattern, name) in [
            ("write", "zfile.read"),
            ("file.*", "zfile.read"),
            ("*.rea", "zfile.read"),
            ("z*x*read", "zfile.read"),
            ("zfile*zfile", "zfile"),
        ] {
            assert!(!fits(pattern, name), "{pattern} {name}");
        }
    }
}
