// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! The kernel's command line.

use super::BootError;

/// What the names of all of our parameters begin with.
const PREFIX: &str = "ovbd.";
/// The parameter that names the layers.
pub const PARAMETER: &str = "ovbd.root";
/// The parameter with their hash trees and root hashes.
pub const VERITY_PARAMETER: &str = "ovbd.verity";

/// What the command line says about the root.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Parameters {
    /// The disks that the layers are on, bottom first: each a path below `/dev`, or a serial number.
    pub layers: Vec<String>,
    /// The disks that their hash trees are on, with the root hashes as text, in the same order; if it
    /// is there, each layer has to have one.
    pub trees: Option<Vec<(String, String)>>,
    /// Changes are possible (`rw`); they go to memory.
    pub writable: bool,
    /// The file system's type (`rootfstype`).
    pub fs_type: Option<String>,
    /// Its mount options (`rootflags`).
    pub flags: Option<String>,
    /// The program to go on with (`init`).
    pub init: Option<String>,
}

impl Parameters {
    /// Reads a command line. As in the kernel, the last of several counts, and what follows `--` is
    /// not for us.
    ///
    /// # Errors
    /// [`BootError::Unknown`] for a parameter that would be ours: with a typo in its name, an image
    /// would be booted that nobody verifies.
    pub fn parse(line: &str) -> Result<Self, BootError> {
        let mut parameters = Self::default();
        let words = words(line);
        for word in words.iter().take_while(|word| *word != "--") {
            let (name, value) = word.split_once('=').unwrap_or((word, ""));
            let given = || Some(value.to_owned()).filter(|value| !value.is_empty());
            match name {
                PARAMETER => {
                    let layers = value.split(',').filter(|layer| !layer.is_empty());
                    parameters.layers = layers.map(ToOwned::to_owned).collect();
                }
                VERITY_PARAMETER => {
                    let trees = value.split(',').filter(|tree| !tree.is_empty());
                    parameters.trees = Some(trees.map(tree_and_hash).collect());
                }
                "ro" => parameters.writable = false,
                "rw" => parameters.writable = true,
                "rootfstype" => parameters.fs_type = given(),
                "rootflags" => parameters.flags = given(),
                "init" => parameters.init = given(),
                other if other.to_ascii_lowercase().starts_with(PREFIX) => {
                    return Err(BootError::Unknown(word.clone()));
                }
                _ => {}
            }
        }
        Ok(parameters)
    }
}

/// `DISK:HASH`; a disk's own name may have colons.
fn tree_and_hash(text: &str) -> (String, String) {
    let (disk, hash) = text.rsplit_once(':').unwrap_or((text, ""));
    (disk.to_owned(), hash.to_owned())
}

/// The words of a line. Double quotes hold spaces together and are not part of a word.
fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = String::new();
    let mut quoted = false;
    for c in line.chars() {
        match c {
            '"' => quoted = !quoted,
            c if c.is_whitespace() && !quoted => words.push(std::mem::take(&mut word)),
            c => word.push(c),
        }
    }
    words.push(word);
    words.retain(|word| !word.is_empty());
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Parameters {
        Parameters::parse(line).unwrap()
    }

    #[test]
    fn a_command_line_is_read() {
        let line = "console=ttyS0 ro ovbd.root=/dev/vda,,top rootfstype=erofs quiet \
                    rootflags=nodev init=/bin/a rw -- ro init=/bin/b\n";
        let expected = Parameters {
            layers: vec!["/dev/vda".to_owned(), "top".to_owned()],
            trees: None,
            writable: true,
            fs_type: Some("erofs".to_owned()),
            flags: Some("nodev".to_owned()),
            init: Some("/bin/a".to_owned()),
        };
        assert_eq!(parse(line), expected);
        assert_eq!(parse("quiet"), Parameters::default());
        assert_eq!(parse("init="), Parameters::default());
    }

    #[test]
    fn a_typo_is_no_parameter_of_others() {
        for word in [
            "ovbd.veritiy=tree:00",
            "ovbd.Verity=tree:00",
            "ovbd.",
            "OVBD.root=a",
        ] {
            let refusal = Parameters::parse(&format!("ovbd.root=a {word} rw")).unwrap_err();
            let refusal = refusal.to_string();
            for expected in [word, PARAMETER, VERITY_PARAMETER] {
                assert!(refusal.contains(expected), "{refusal}");
            }
        }
        // Others' own, and what is for init.
        parse("ovbd=1 dm_verity.require_signatures=1 -- ovbd.x");
    }

    #[test]
    fn trees_have_root_hashes() {
        let trees = |line: &str| parse(line).trees;
        let pair = |disk: &str, hash: &str| (disk.to_owned(), hash.to_owned());
        let expected = [pair("base-tree", "00ff"), pair("a:b", "11")];
        let found = trees("ovbd.verity=base-tree:00ff,,a:b:11 rw").unwrap();
        assert_eq!(found, expected);
        assert_eq!(trees("ovbd.verity=tree").unwrap(), [pair("tree", "")]);
        // Whoever wrote that wants something verified.
        assert_eq!(trees("ovbd.verity="), Some(Vec::new()));
        assert_eq!(trees("ovbd.root=a"), None);
    }

    #[test]
    fn quotes_hold_words_together() {
        assert_eq!(words(" a  \"b c\"=\"d e\" "), ["a", "b c=d e"]);
        assert_eq!(words(""), [""; 0]);
        let line = "\"rootflags=a b\" ovbd.root=x";
        assert_eq!(parse(line).flags.as_deref(), Some("a b"));
    }
}
