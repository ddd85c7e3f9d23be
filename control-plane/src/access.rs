//! Who may do what: bearer tokens `akidb_<id>_<secret>` with a role.
//!
//! Enters: an `authorization` header. Leaves: a [`Caller`], or why not. Never: a secret in a row, a log line or an error; a comparison whose
//! time tells how much was right.

use std::num::NonZeroU32;
use std::sync::Arc;

use akidb_domain::vocabulary::Role;
use governor::clock::DefaultClock;
use governor::state::{InMemoryState, NotKeyed};
use governor::{Quota, RateLimiter};
use rand::RngCore;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::change::Actor;
use crate::db::tokens::{self, TokenRow};
use crate::db::{self, Db};
use crate::metrics::Metrics;

/// Bad tokens answered a second, before every further one is turned away unread.
const FAILURES_PER_SECOND: NonZeroU32 = NonZeroU32::new(10).unwrap();

/// A caller whose token is good.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    pub(crate) token_id: String,
    pub(crate) role: Role,
    /// Binding of a sidecar's token; empty: any.
    pub(crate) namespace: String,
    /// Binding of a sidecar's token; empty: any.
    pub(crate) app: String,
}

impl Caller {
    /// As the audit log names it.
    pub(crate) fn actor(&self) -> Actor {
        Actor(format!("token:{}", self.token_id))
    }

    /// Whether it may speak for a sidecar of this namespace and app.
    pub(crate) fn may_be(&self, namespace: &str, app: &str) -> bool {
        let fits = |bound: &str, got: &str| bound.is_empty() || bound == got;
        matches!(self.role, Role::Sidecar | Role::Admin) && fits(&self.namespace, namespace) && fits(&self.app, app)
    }
}

/// Why a caller is turned away.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AccessError {
    #[error("send `authorization: Bearer akidb_<id>_<secret>` with a token that is not revoked")]
    Unauthenticated,
    #[error("too many bad tokens: wait a second")]
    TooMany,
    #[error(transparent)]
    Db(#[from] db::Error),
}

/// Checks tokens; cheap to clone.
#[derive(Clone)]
pub(crate) struct Access {
    db: Db,
    failures: Arc<RateLimiter<NotKeyed, InMemoryState, DefaultClock>>,
    metrics: Arc<Metrics>,
}

impl Access {
    pub(crate) fn new(db: Db, metrics: Arc<Metrics>) -> Self {
        Self { db, failures: Arc::new(RateLimiter::direct(Quota::per_second(FAILURES_PER_SECOND))), metrics }
    }

    /// Who sends this header.
    pub(crate) async fn caller(&self, authorization: Option<&str>) -> Result<Caller, AccessError> {
        let Some((id, secret)) = authorization.and_then(parse) else { return Err(self.refuse()) };
        let row = tokens::find(&mut *self.db.reader().await?, id).await?;
        let row = row.filter(|it| it.revoked_at.is_none() && matches(it, secret));
        let Some((row, role)) = row.and_then(|it| it.role.parse().ok().map(|role| (it, role))) else { return Err(self.refuse()) };
        Ok(Caller { token_id: row.id, role, namespace: row.namespace, app: row.app })
    }

    /// Whether a token that was good still is.
    pub(crate) async fn still_good(&self, caller: &Caller) -> Result<bool, db::Error> {
        let row = tokens::find(&mut *self.db.reader().await?, &caller.token_id).await?;
        Ok(row.is_some_and(|it| it.revoked_at.is_none()))
    }

    fn refuse(&self) -> AccessError {
        self.metrics.auth_failures.inc();
        match self.failures.check() {
            Ok(()) => AccessError::Unauthenticated,
            Err(_) => AccessError::TooMany,
        }
    }
}

fn matches(row: &TokenRow, secret: &str) -> bool {
    hash(secret).as_bytes().ct_eq(row.secret_sha256.as_bytes()).into()
}

fn parse(authorization: &str) -> Option<(&str, &str)> {
    let (scheme, token) = authorization.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("bearer") || token.len() > 256 {
        return None;
    }
    token.trim().strip_prefix("akidb_")?.split_once('_')
}

fn hash(secret: &str) -> String {
    hex::encode(Sha256::digest(secret))
}

/// What a new token is for.
#[derive(Debug, Clone)]
pub(crate) struct NewToken {
    pub(crate) name: String,
    pub(crate) role: Role,
    pub(crate) namespace: String,
    pub(crate) app: String,
}

/// Makes a token: the row to keep, and the text to show once.
pub(crate) fn mint(new: NewToken, at: i64) -> (TokenRow, String) {
    let (mut id, mut secret) = ([0; 6], [0; 32]);
    rand::rng().fill_bytes(&mut id);
    rand::rng().fill_bytes(&mut secret);
    let (id, secret) = (hex::encode(id), hex::encode(secret));
    let text = format!("akidb_{id}_{secret}");
    let NewToken { name, role, namespace, app } = new;
    (TokenRow { id, name, role: role.to_string(), namespace, app, secret_sha256: hash(&secret), created_at: at, revoked_at: None }, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(header: &str, expected: Option<(&str, &str)>) {
        assert_eq!(parse(header), expected, "{header}");
    }

    #[test]
    fn headers() {
        check("Bearer akidb_ab_cd", Some(("ab", "cd")));
        check("bearer akidb_ab_cd", Some(("ab", "cd")));
        check("Basic akidb_ab_cd", None);
        check("Bearer other_ab_cd", None);
        check("akidb_ab_cd", None);
        check(&format!("Bearer akidb_ab_{}", "x".repeat(300)), None);
    }

    #[test]
    fn a_minted_token_matches_itself_only() {
        let new = || NewToken { name: "n".into(), role: Role::Viewer, namespace: String::new(), app: String::new() };
        let ((row, text), (_, other)) = (mint(new(), 0), mint(new(), 0));
        let secret = |text: &str| text.rsplit_once('_').unwrap().1.to_owned();
        assert!(matches(&row, &secret(&text)) && !matches(&row, &secret(&other)));
        assert!(!text.contains(&row.secret_sha256));
    }

    #[test]
    fn a_binding_limits_whom_a_token_speaks_for() {
        let caller =
            |namespace: &str| Caller { token_id: "t".into(), role: Role::Sidecar, namespace: namespace.into(), app: String::new() };
        assert!(caller("").may_be("a", "b") && caller("a").may_be("a", "b") && !caller("x").may_be("a", "b"));
        assert!(!Caller { role: Role::Viewer, ..caller("") }.may_be("a", "b"));
    }
}
