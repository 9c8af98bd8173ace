//! Who may use `/v1`: the bearer of the token; without a token, this machine alone.

use std::io::Read as _;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

/// A token file larger than this is a mistake.
const TOKEN_BYTES_MAX: u64 = 4096;

/// The rule of one admin listener.
#[derive(Clone, Debug)]
pub struct Access {
    /// Read for every request, so that a changed token counts at once.
    pub token_file: Option<PathBuf>,
    /// Whether the listener is bound to a loopback address.
    pub bound_to_loopback: bool,
}

/// Why a request was turned away.
#[derive(Debug, PartialEq, Eq)]
pub enum Denied {
    /// 401: no token, or another one.
    Unauthenticated(&'static str),
    /// 403: no token is configured, and the caller or the listener is not on loopback.
    Forbidden(&'static str),
    /// 503: the token file cannot be used.
    Unavailable(String),
}

impl Access {
    /// Judges a request by its peer and its `Authorization` header. Reads a file: not for an async thread.
    pub fn check(&self, peer: IpAddr, authorization: Option<&[u8]>) -> Result<(), Denied> {
        let Some(path) = &self.token_file else {
            return match (self.bound_to_loopback, peer.to_canonical().is_loopback()) {
                (true, true) => Ok(()),
                (false, _) => Err(Denied::Forbidden(
                    "no token is configured (chronik.admin.token.file), so /v1 is served only when chronik.admin.listen is a loopback address",
                )),
                (true, false) => Err(Denied::Forbidden(
                    "no token is configured (chronik.admin.token.file), so /v1 is served to this machine only",
                )),
            };
        };
        let expected = read_token(path).map_err(Denied::Unavailable)?;
        let Some(header) = authorization else {
            return Err(Denied::Unauthenticated("the header `Authorization: Bearer TOKEN` is missing"));
        };
        let given = match header.split_at_checked(7) {
            Some((scheme, token)) if scheme.eq_ignore_ascii_case(b"bearer ") => token.trim_ascii(),
            _ => return Err(Denied::Unauthenticated("the Authorization header is not `Bearer TOKEN`")),
        };
        if same(given, &expected) { Ok(()) } else { Err(Denied::Unauthenticated("this is not the token")) }
    }
}

fn read_token(path: &Path) -> Result<Vec<u8>, String> {
    let unusable = |why: String| format!("the token file {} cannot be used: {why}", path.display());
    let file = std::fs::File::open(path).map_err(|e| unusable(e.to_string()))?;
    let mut token = Vec::new();
    file.take(TOKEN_BYTES_MAX + 1).read_to_end(&mut token).map_err(|e| unusable(e.to_string()))?;
    if token.len() as u64 > TOKEN_BYTES_MAX {
        return Err(unusable(format!("it is longer than {TOKEN_BYTES_MAX} bytes")));
    }
    let token = token.trim_ascii().to_vec();
    // An empty token would open the door to everybody.
    if token.is_empty() { Err(unusable("it is empty".to_string())) } else { Ok(token) }
}

/// Compares without telling, by the time it takes, where the first difference is.
fn same(given: &[u8], expected: &[u8]) -> bool {
    let differences = given.iter().zip(expected).fold(0u8, |all, (a, b)| all | (a ^ b));
    given.len() == expected.len() && std::hint::black_box(differences) == 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);
    const THERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 9));

    #[test]
    fn without_a_token_only_loopback_may() {
        let inside = Access { token_file: None, bound_to_loopback: true };
        let outside = Access { bound_to_loopback: false, ..inside.clone() };
        assert_eq!(inside.check(HERE, None), Ok(()));
        assert_eq!(inside.check("::1".parse().unwrap(), None), Ok(()));
        assert_eq!(inside.check("::ffff:127.0.0.1".parse().unwrap(), None), Ok(()));
        assert!(matches!(inside.check(THERE, None), Err(Denied::Forbidden(_))));
        for peer in [HERE, THERE] {
            assert!(matches!(outside.check(peer, Some(b"Bearer x")), Err(Denied::Forbidden(_))));
        }
    }

    #[test]
    fn with_a_token_only_its_bearer_may() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        let access = Access { token_file: Some(file.path().into()), bound_to_loopback: true };
        assert!(matches!(access.check(HERE, Some(b"Bearer ")), Err(Denied::Unavailable(_))));
        file.write_all(b"s3cret\n").unwrap();
        assert_eq!(access.check(THERE, Some(b"Bearer s3cret")), Ok(()));
        assert_eq!(access.check(THERE, Some(b"bearer s3cret ")), Ok(()));
        for wrong in
            [None, Some(&b"Bearer s3cre"[..]), Some(b"Bearer s3cret1"), Some(b"s3cret"), Some(b"Bearer")]
        {
            assert!(matches!(access.check(HERE, wrong), Err(Denied::Unauthenticated(_))), "{wrong:?}");
        }
        // The next token counts at once.
        file.as_file().set_len(0).unwrap();
        std::fs::write(file.path(), "other").unwrap();
        assert!(access.check(HERE, Some(b"Bearer s3cret")).is_err());
        assert_eq!(access.check(HERE, Some(b"Bearer other")), Ok(()));
        let gone = Access { token_file: Some("/nonexistent/token".into()), ..access };
        assert!(matches!(gone.check(HERE, Some(b"Bearer x")), Err(Denied::Unavailable(_))));
    }
}
