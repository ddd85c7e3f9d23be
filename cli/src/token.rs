//! The bearer token. Enters: options and environment. Leaves: a token, or a sentence on how to get one. Never: a token in a message.

use std::path::Path;

use crate::args::Options;
use crate::failure::Failure;

const NO_TOKEN: &str = "no token: give --token or --token-file, or set AKIDB_TOKEN or AKIDB_TOKEN_FILE; the control plane's first start leaves \
    an admin token in its `admin_token_file` (DATA_DIR/admin-token), and `akidb tokens create` makes others";

/// An option beats the environment, and `token` beats `token file`.
pub(crate) fn find(options: &Options) -> Result<String, Failure> {
    let variable = |name: &str| std::env::var(name).ok().filter(|it| !it.is_empty());
    if let Some(token) = &options.token {
        return checked(token, "--token");
    }
    if let Some(file) = &options.token_file {
        return read(file, "--token-file");
    }
    if let Some(token) = variable("AKIDB_TOKEN") {
        return checked(&token, "AKIDB_TOKEN");
    }
    match variable("AKIDB_TOKEN_FILE") {
        Some(file) => read(Path::new(&file), "AKIDB_TOKEN_FILE"),
        None => Err(Failure::Input(NO_TOKEN.to_owned())),
    }
}

fn read(file: &Path, from: &str) -> Result<String, Failure> {
    let text =
        std::fs::read_to_string(file).map_err(|error| Failure::Input(format!("{from} `{}` cannot be read: {error}", file.display())))?;
    checked(&text, &format!("{from} `{}`", file.display()))
}

/// A token goes into a header: no blanks, no control characters.
fn checked(text: &str, from: &str) -> Result<String, Failure> {
    let token = text.trim();
    if token.is_empty() || token.len() > 512 || !token.bytes().all(|it| it.is_ascii_graphic()) {
        return Err(Failure::Input(format!("{from} does not hold a token: it looks like `akidb_<id>_<secret>`, on one line")));
    }
    Ok(token.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_a_token_is_not_repeated() {
        assert_eq!(checked(" akidb_a_b\n", "--token").unwrap(), "akidb_a_b");
        for text in ["", "two words", "line\nline", "\u{7f}"] {
            let message = checked(text, "--token").unwrap_err().to_string();
            assert!(message.starts_with("--token does not hold a token"), "{message}");
            assert!(text.is_empty() || !message.contains(text), "{message}");
        }
    }
}
