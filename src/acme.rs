//! Certificates from an authority (ACME, RFC 8555): an account, an order for each name, proofs that the name is ours, renewal
//! in time, as the authority suggests (RFC 9773) or when two thirds of a certificate's life are over.
//!
//! Knows names and files, no sites and no requests: proofs and certificates are shown by [`tls::live`](crate::tls::live). Each
//! name has a certificate of its own, so one that fails stops no other; it is tried again with growing pauses, and what was
//! there is shown meanwhile.

pub mod http;
pub mod schedule;
pub mod store;

use crate::clock;
use crate::telemetry;
use crate::telemetry::metrics::Metrics;
use crate::tls::Certificate;
use crate::tls::TlsProblem;
use crate::tls::live;
use crate::tls::live::Live;
use crate::units::Secret;
use instant_acme::Account;
use instant_acme::AuthorizationStatus;
use instant_acme::CertificateIdentifier;
use instant_acme::ChallengeType;
use instant_acme::Error;
use instant_acme::ExternalAccountKey;
use instant_acme::Identifier;
use instant_acme::NewAccount;
use instant_acme::NewOrder;
use instant_acme::OrderStatus;
use instant_acme::RetryPolicy;
use rustls::ClientConfig;
use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::hash::BuildHasher;
use std::hash::RandomState;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use std::time::SystemTime;
use tokio::task::JoinHandle;
use tracing::info;
use tracing::warn;

/// How long an authority may take to look at the proofs, and again to issue.
const PATIENCE: RetryPolicy = RetryPolicy::new().timeout(Duration::from_secs(90));

/// The longest that nothing is looked at, so that a suspended machine's clock is noticed.
const LONGEST_SLEEP: Duration = Duration::from_secs(3600);

/// What an operator wants of an authority.
#[derive(Clone)]
pub struct Plan {
    /// To whom the authority may write.
    pub email: String,
    /// The authority's directory.
    pub directory: String,
    /// How names are proved.
    pub challenge: Challenge,
    /// Where account and certificates are kept.
    pub store: PathBuf,
    /// Whom we believe to be the authority.
    pub tls: Arc<ClientConfig>,
    /// The account that the authority knows us by otherwise.
    pub external: Option<External>,
    /// The names that want a certificate.
    pub names: BTreeSet<String>,
}

/// An account elsewhere that ours is bound to (RFC 8555 7.3.4).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct External {
    /// Its name.
    pub kid: String,
    /// Its key.
    pub key: Secret<Vec<u8>>,
}

/// How names are proved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Challenge {
    /// By TLS, and if that fails by HTTP, in turn.
    Either,
    /// By a file at port 80.
    Http,
    /// By a certificate at port 443.
    TlsAlpn,
}

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub enum AcmeError {
    /// The authority refused, or cannot be reached.
    #[error("{doing}")]
    Authority {
        /// What we were doing.
        doing: &'static str,
        /// What it said.
        #[source]
        source: Error,
    },
    /// It does not offer the proof that we may give.
    #[error("the authority offers no {0:?} proof for this name")]
    NoChallenge(ChallengeType),
    /// It is not convinced.
    #[error("the authority says that the order is {0:?}; does the name lead here, at port 80 and 443?")]
    Order(OrderStatus),
    /// A name's authorization can be used no more.
    #[error("the authority says that the name's authorization is {0:?}")]
    Authorization(AuthorizationStatus),
    /// What it issued cannot be used.
    #[error("use the issued certificate")]
    Unusable(#[source] TlsProblem),
    /// It cannot be kept.
    #[error("keep it in {}; may tidegate write there?", path.display())]
    Store {
        /// Where.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The account's file is not what we wrote.
    #[error("read the account in {}; if it is lost, remove the file and a new account is made", .0.display())]
    Account(PathBuf, #[source] serde_json::Error),
}

impl PartialEq for Plan {
    fn eq(&self, other: &Self) -> bool {
        // The authorities' certificates are read anew at each reload; a change of them is no reason to begin again.
        (&self.email, &self.directory, self.challenge, &self.store, &self.external, &self.names)
            == (&other.email, &other.directory, other.challenge, &other.store, &other.external, &other.names)
    }
}

/// Sees to the certificates of the plan in force, in a task of its own.
#[derive(Default)]
pub struct Agent {
    plan: Option<Arc<Plan>>,
    task: Option<JoinHandle<()>>,
}

impl Agent {
    /// Follows `plan` from now on.
    pub fn follow(&mut self, plan: Option<&Arc<Plan>>, live: &Arc<Live>, metrics: &Arc<Metrics>) {
        if self.plan.as_deref() == plan.map(Arc::as_ref) {
            return;
        }
        self.stop();
        self.plan = plan.cloned();
        self.task = plan.map(|plan| {
            let (plan, live, metrics) = (Arc::clone(plan), Arc::clone(live), Arc::clone(metrics));
            tokio::spawn(Clerk { plan, live, metrics, account: None, desks: BTreeMap::new() }.work())
        });
    }

    fn stop(&mut self) {
        if let Some(task) = self.task.take() {
            task.abort();
        }
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.stop();
    }
}

/// What is known of one name.
#[derive(Clone, Copy)]
struct Desk {
    due: SystemTime,
    failures: u32,
}

struct Clerk {
    plan: Arc<Plan>,
    live: Arc<Live>,
    metrics: Arc<Metrics>,
    account: Option<Account>,
    desks: BTreeMap<String, Desk>,
}

impl Clerk {
    async fn work(mut self) {
        let now = clock::now().wall;
        for name in self.plan.names.clone() {
            self.desks.insert(name, Desk { due: now, failures: 0 });
        }
        loop {
            let Some((name, desk)) = self.desks.iter().min_by_key(|(_, desk)| desk.due) else { return };
            let (name, desk) = (name.clone(), *desk);
            let wait = desk.due.duration_since(clock::now().wall).unwrap_or(Duration::ZERO);
            if !wait.is_zero() {
                tokio::time::sleep(wait.min(LONGEST_SLEEP)).await;
                continue;
            }
            let next = match self.see_to(&name, desk.failures).await {
                Ok(due) => Desk { due, failures: 0 },
                Err(error) => {
                    self.metrics.acme_order("failed");
                    // The next one begins with a fresh look at the authority.
                    self.account = None;
                    let failures = desk.failures.saturating_add(1);
                    let pause = schedule::pause(failures, random());
                    warn!(name, error = telemetry::chain(&error), next_seconds = pause.as_secs(), "no certificate");
                    Desk { due: clock::now().wall + pause, failures }
                }
            };
            self.desks.insert(name, next);
        }
    }

    /// Gets `name` a certificate if it is time; says when to look again.
    async fn see_to(&mut self, name: &str, failures: u32) -> Result<SystemTime, AcmeError> {
        let found = self.live.certificate(name);
        if let Some(found) = &found {
            let due = self.renewal(found).await;
            if due > clock::now().wall {
                return Ok(due);
            }
        }
        let account = self.account().await?;
        let certificate = self.order(&account, name, found.as_ref(), failures).await?;
        self.metrics.acme_order("ok");
        let due = self.renewal(&certificate).await;
        let days = certificate.facts.not_after.duration_since(clock::now().wall).unwrap_or_default().as_secs() / 86_400;
        info!(name, days, "certificate issued");
        self.live.put(name, certificate);
        Ok(due)
    }

    /// When a certificate is to be renewed, or asked about again.
    async fn renewal(&mut self, certificate: &Certificate) -> SystemTime {
        let facts = &certificate.facts;
        let fallback = schedule::by_life(facts.not_before, facts.not_after);
        let Some(id) = certificate_id(certificate) else { return fallback };
        let Ok(account) = self.account().await else { return fallback };
        match account.renewal_info(&id).await {
            Ok((info, again)) => {
                let window =
                    (at(info.suggested_window.start.unix_timestamp()), at(info.suggested_window.end.unix_timestamp()));
                schedule::by_window(window, again, clock::now().wall, random())
            }
            // The authority has no suggestion, or none now.
            Err(_) => fallback,
        }
    }

    async fn account(&mut self) -> Result<Account, AcmeError> {
        if let Some(account) = &self.account {
            return Ok(account.clone());
        }
        let account = account(&self.plan).await?;
        self.account = Some(account.clone());
        Ok(account)
    }

    async fn order(
        &self,
        account: &Account,
        name: &str,
        replaced: Option<&Certificate>,
        failures: u32,
    ) -> Result<Certificate, AcmeError> {
        let fail = |doing| move |source| AcmeError::Authority { doing, source };
        let names = [Identifier::Dns(name.to_owned())];
        let order = NewOrder::new(&names);
        let with_replaced = match replaced.and_then(certificate_id) {
            Some(id) => account.new_order(&NewOrder::new(&names).replaces(id)).await.ok(),
            None => None,
        };
        let mut order = match with_replaced {
            Some(order) => order,
            // The authority does not know the one replaced, or knows no such thing.
            None => account.new_order(&order).await.map_err(fail("order a certificate"))?,
        };
        let wanted = match self.plan.challenge {
            Challenge::TlsAlpn => ChallengeType::TlsAlpn01,
            Challenge::Either if failures.is_multiple_of(2) => ChallengeType::TlsAlpn01,
            Challenge::Either | Challenge::Http => ChallengeType::Http01,
        };
        // Dropped at the end, they are shown no more.
        let mut shown = Vec::new();
        let mut authorizations = order.authorizations();
        while let Some(authorization) = authorizations.next().await {
            let mut authorization = authorization.map_err(fail("read what is to be proved"))?;
            match authorization.status {
                AuthorizationStatus::Valid => continue,
                AuthorizationStatus::Pending => {}
                other => return Err(AcmeError::Authorization(other)),
            }
            let Some(mut challenge) = authorization.challenge(wanted.clone()) else {
                return Err(AcmeError::NoChallenge(wanted));
            };
            let proof = challenge.key_authorization();
            let digest: [u8; 32] = proof.digest().as_ref().try_into().unwrap_or([0; 32]);
            shown.push(Shown::begin(&self.live, &wanted, name, &challenge.token, proof.as_str(), &digest)?);
            challenge.set_ready().await.map_err(fail("offer the proof"))?;
        }
        let status = order.poll_ready(&PATIENCE).await.map_err(fail("wait for the authority to look at the proof"))?;
        if status != OrderStatus::Ready && status != OrderStatus::Valid {
            return Err(AcmeError::Order(status));
        }
        drop(shown);
        let key = order.finalize().await.map(Secret::new).map_err(fail("ask for the certificate"))?;
        let chain = order.poll_certificate(&PATIENCE).await.map_err(fail("fetch the certificate"))?;
        let pem = Secret::new(format!("{chain}\n{}", key.expose()));
        let path = store::path(&self.plan.store, name);
        let certificate = live::from_pem(pem.expose().as_bytes(), name, &path).map_err(AcmeError::Unusable)?;
        if let Err(error) = store::save(&path, pem.expose().as_bytes()) {
            // To order it once more would not help; it is shown until we end.
            warn!(name, file = %path.display(), %error, "the certificate cannot be kept");
        }
        Ok(certificate)
    }
}

/// A proof that is being shown.
struct Shown {
    live: Arc<Live>,
    kind: ChallengeType,
    key: String,
}

impl Shown {
    fn begin(
        live: &Arc<Live>,
        kind: &ChallengeType,
        name: &str,
        token: &str,
        answer: &str,
        digest: &[u8; 32],
    ) -> Result<Self, AcmeError> {
        let key = if *kind == ChallengeType::Http01 {
            live.set_token(token, Some(answer.to_owned()));
            token
        } else {
            let proof = live::self_made(vec![name.to_owned()], Some(digest)).map_err(AcmeError::Unusable)?;
            live.set_proof(name, Some(proof.key));
            name
        };
        Ok(Self { live: Arc::clone(live), kind: kind.clone(), key: key.to_owned() })
    }
}

impl Drop for Shown {
    fn drop(&mut self) {
        if self.kind == ChallengeType::Http01 {
            self.live.set_token(&self.key, None);
        } else {
            self.live.set_proof(&self.key, None);
        }
    }
}

/// The account of an earlier start, or a new one.
async fn account(plan: &Plan) -> Result<Account, AcmeError> {
    let builder = || Account::builder_with_http(Box::new(http::Client::new(Arc::clone(&plan.tls))));
    let path = store::account_path(&plan.store, &plan.directory);
    let fail = |doing| move |source| AcmeError::Authority { doing, source };
    store::prepare(&plan.store).map_err(|source| AcmeError::Store { path: plan.store.clone(), source })?;
    if let Ok(text) = std::fs::read(&path).map(Secret::new) {
        let known = serde_json::from_slice(text.expose()).map_err(|source| AcmeError::Account(path, source))?;
        return builder().from_credentials(known).await.map_err(fail("reach the authority"));
    }
    let contact = format!("mailto:{}", plan.email);
    let new = NewAccount { contact: &[&contact], terms_of_service_agreed: true, only_return_existing: false };
    let external =
        plan.external.as_ref().map(|external| ExternalAccountKey::new(external.kid.clone(), external.key.expose()));
    let (account, known) = builder()
        .create(&new, plan.directory.clone(), external.as_ref())
        .await
        .map_err(fail("make an account with the authority"))?;
    let text = serde_json::to_vec(&known).map(Secret::new);
    let text = text.map_err(|source| AcmeError::Account(path.clone(), source))?;
    store::save(&path, text.expose()).map_err(|source| AcmeError::Store { path: path.clone(), source })?;
    info!(directory = plan.directory, account = %path.display(), "account made with the authority");
    Ok(account)
}

fn certificate_id(certificate: &Certificate) -> Option<CertificateIdentifier<'static>> {
    let key = certificate.facts.authority_key.as_ref()?;
    Some(CertificateIdentifier::new(key.as_slice().into(), certificate.facts.serial.as_slice().into()).into_owned())
}

fn at(unix: i64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(unix).unwrap_or(0))
}

/// A number from 0 to 1, so that not all edges of the world come at one moment.
fn random() -> f64 {
    let bits = u32::try_from(RandomState::new().hash_one(0_u8) >> 32).unwrap_or(0);
    f64::from(bits) / f64::from(u32::MAX)
}
