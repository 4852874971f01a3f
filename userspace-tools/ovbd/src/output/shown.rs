// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! What others wrote, as it may be shown: it must neither give secrets away nor control the terminal.

/// How much of a text is shown, characters.
const TEXT_MAX: usize = 200;

/// `text` without control characters, and not more of it than somebody reads.
pub fn text(text: &str) -> String {
    let end = text.char_indices().nth(TEXT_MAX);
    let end = end.map_or(text.len(), |(at, _)| at);
    let cut = if end < text.len() { "…" } else { "" };
    format!("{}{cut}", text[..end].escape_debug())
}

/// `text`, an address perhaps, without user, query and fragment.
pub fn address(text: &str) -> String {
    let end = text.find(['?', '#']).unwrap_or(text.len());
    let (text, cut) = (&text[..end], if end < text.len() { "?…" } else { "" });
    let (scheme, rest) = match text.split_once("://") {
        Some((scheme, rest)) => (format!("{scheme}://"), rest),
        None => (String::new(), text),
    };
    let host_end = rest.find('/').unwrap_or(rest.len());
    let host = rest[..host_end].rsplit('@').next().unwrap_or_default();
    format!("{scheme}{host}{}{cut}", &rest[host_end..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_text_is_one_short_line() {
        assert_eq!(text("sha256:12 – ok"), "sha256:12 – ok");
        assert_eq!(
            text("\u{1b}[31m\r\nred\u{202e}"),
            r"\u{1b}[31m\r\nred\u{202e}"
        );
        assert_eq!(text(&"ä".repeat(200)), "ä".repeat(200));
        assert_eq!(text(&"ä".repeat(1 << 20)), "ä".repeat(200) + "…");
    }

    #[test]
    fn an_address_keeps_no_secret() {
        assert_eq!(
            address("https://u:p@h.example:1/a?sig=s#f"),
            "https://h.example:1/a?…"
        );
        assert_eq!(address("u:p@h.example"), "h.example");
    }
}
