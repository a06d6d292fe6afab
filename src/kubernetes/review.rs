//! Asks the cluster who a bearer token belongs to and what its owner may read: TokenReview, then SubjectAccessReview on a
//! path. Answers are cached for as long as the API server itself would. Whoever makes tokens up costs the API server ten
//! reviews a second at most, and pushes no known token out of the cache.

use std::collections::BTreeMap;
use std::hash::Hash;
use std::time::Duration;

use hashlink::LruCache;
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, UserInfo};
use k8s_openapi::api::authorization::v1::{
    NonResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec,
};
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, Client};
use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, timeout};

/// How long an owner is believed, and how long a token stays unknown.
const TOKEN: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(10));

/// How long a permission lasts, and how long a refusal.
const ACCESS: (Duration, Duration) = (Duration::from_secs(300), Duration::from_secs(30));

/// Longest time one question may take, all tries together.
const PATIENCE: Duration = Duration::from_secs(10);

/// First pause between tries, and their number.
const TRIES: (Duration, u32) = (Duration::from_millis(500), 5);

/// Answers kept of each kind.
const KEPT: usize = 256;

/// Reviews of tokens that were never known: under way at once, of a second, and in one burst.
const STRANGERS: (usize, u32, u32) = (4, 10, 20);

/// Reviews under way of tokens that were known before, and of what their owners may.
const ACQUAINTANCES: usize = 4;

/// What a review came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Review {
    /// The token's owner may.
    Allowed,
    /// Nobody knows the token.
    UnknownToken,
    /// The owner may not.
    Denied {
        /// Name of the owner.
        user: String,
    },
    /// The API server did not answer, or would be asked too often.
    Unreachable,
}

/// Reviews tokens; share it.
pub struct Reviews {
    client: Client,
    /// Owners of tokens. One that is too old is not believed any more, and its token is no stranger's.
    owners: Mutex<LruCache<String, Kept<UserInfo>>>,
    /// Tokens that nobody knows.
    unknown: Mutex<LruCache<String, Kept<()>>>,
    access: Mutex<LruCache<Question, Kept<bool>>>,
    strangers: Semaphore,
    acquaintances: Semaphore,
    rate: Mutex<Rate>,
}

/// What is asked about an owner: all that an authorizer may decide by.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Question {
    user: Option<String>,
    uid: Option<String>,
    groups: Option<Vec<String>>,
    extra: Option<BTreeMap<String, Vec<String>>>,
    verb: String,
    path: String,
}

impl Question {
    fn of(user: &UserInfo, verb: &str, path: &str) -> Self {
        Question {
            user: user.username.clone(),
            uid: user.uid.clone(),
            groups: user.groups.clone(),
            extra: user.extra.clone(),
            verb: verb.to_owned(),
            path: path.to_owned(),
        }
    }
}

/// How often something may be done: so many a second, and a burst.
struct Rate {
    /// When the burst is whole again.
    whole_at: Instant,
}

impl Rate {
    /// May it be done now? Then it counts.
    fn take(&mut self, now: Instant) -> bool {
        let (_, a_second, burst) = STRANGERS;
        let one = Duration::from_secs(1) / a_second;
        let next = self.whole_at.max(now) + one;
        let free = next <= now + one * burst;
        if free {
            self.whole_at = next;
        }
        free
    }
}

#[derive(Clone)]
struct Kept<T> {
    until: Instant,
    answer: T,
}

impl Reviews {
    /// Reviews by the cluster behind `client`.
    pub fn new(client: Client) -> Self {
        Reviews {
            client,
            owners: Mutex::new(LruCache::new(KEPT)),
            unknown: Mutex::new(LruCache::new(KEPT)),
            access: Mutex::new(LruCache::new(KEPT)),
            strangers: Semaphore::new(STRANGERS.0),
            acquaintances: Semaphore::new(ACQUAINTANCES),
            rate: Mutex::new(Rate {
                whole_at: Instant::now(),
            }),
        }
    }

    /// May the owner of `token` do `verb` (a lower-case HTTP method) on `path`? Ends within 30 seconds.
    pub async fn review(&self, token: &str, verb: &str, path: &str) -> Review {
        let user = match self.known(token) {
            Some(user) => user,
            None => match self.ask_owner(token).await {
                Some(user) => user,
                None => return Review::Unreachable,
            },
        };
        let Some(user) = user else {
            return Review::UnknownToken;
        };
        let name = user.username.clone().unwrap_or_default();
        let question = Question::of(&user, verb, path);
        let allowed = match kept(&self.access, &question) {
            Some(allowed) => allowed,
            None => match self.allowed(user, verb, path).await {
                Some(allowed) => {
                    let life = if allowed { ACCESS.0 } else { ACCESS.1 };
                    keep(&self.access, question, allowed, life);
                    allowed
                }
                None => return Review::Unreachable,
            },
        };
        if allowed {
            Review::Allowed
        } else {
            Review::Denied { user: name }
        }
    }

    /// What is still believed of a token: its owner, or `Some(None)`: it has none.
    fn known(&self, token: &str) -> Option<Option<UserInfo>> {
        let token = token.to_owned();
        let owner = kept(&self.owners, &token).map(Some);
        owner.or_else(|| kept(&self.unknown, &token).map(|()| None))
    }

    /// Asks for the owner of a token when there is a place to ask.
    async fn ask_owner(&self, token: &str) -> Option<Option<UserInfo>> {
        let acquainted = self.owners.lock().contains_key(token);
        if !acquainted && !self.rate.lock().take(Instant::now()) {
            tracing::warn!(
                a_second = STRANGERS.1,
                "Too many unknown tokens on the metrics port: not reviewed, answered 503"
            );
            return None;
        }
        let places = if acquainted {
            &self.acquaintances
        } else {
            &self.strangers
        };
        let _place = timeout(PATIENCE, places.acquire()).await.ok()?.ok()?;
        // Whoever had the place before may have asked the same.
        if let Some(known) = self.known(token) {
            return Some(known);
        }
        let owner = self.owner(token).await?;
        match owner.clone() {
            Some(user) => keep(&self.owners, token.to_owned(), user, TOKEN.0),
            None => {
                self.owners.lock().remove(token);
                keep(&self.unknown, token.to_owned(), (), TOKEN.1);
            }
        }
        Some(owner)
    }

    /// Whose token it is: `Some(None)` nobody's, `None` the server did not say.
    async fn owner(&self, token: &str) -> Option<Option<UserInfo>> {
        let review = TokenReview {
            metadata: ObjectMeta::default(),
            spec: TokenReviewSpec {
                audiences: None,
                token: Some(token.to_owned()),
            },
            status: None,
        };
        let status = self
            .ask(&review, "tokenreviews")
            .await?
            .status
            .unwrap_or_default();
        Some(status.user.filter(|_| status.authenticated == Some(true)))
    }

    async fn allowed(&self, user: UserInfo, verb: &str, path: &str) -> Option<bool> {
        let _place = timeout(PATIENCE, self.acquaintances.acquire()).await.ok()?.ok()?;
        let review = SubjectAccessReview {
            metadata: ObjectMeta::default(),
            spec: SubjectAccessReviewSpec {
                extra: user.extra,
                groups: user.groups,
                non_resource_attributes: Some(NonResourceAttributes {
                    path: Some(path.to_owned()),
                    verb: Some(verb.to_owned()),
                }),
                resource_attributes: None,
                uid: user.uid,
                user: user.username,
            },
            status: None,
        };
        let answer = self.ask(&review, "subjectaccessreviews").await?;
        Some(answer.status.is_some_and(|s| s.allowed))
    }

    /// Posts a review, again after a failure that may pass.
    async fn ask<R>(&self, review: &R, what: &str) -> Option<R>
    where
        R: kube::Resource<DynamicType = ()>
            + Clone
            + std::fmt::Debug
            + serde::Serialize
            + serde::de::DeserializeOwned,
    {
        let api: Api<R> = Api::all(self.client.clone());
        let tries = async {
            let mut pause = TRIES.0;
            for left in (0..TRIES.1).rev() {
                match api.create(&PostParams::default(), review).await {
                    Ok(answer) => return Some(answer),
                    Err(error) => {
                        let refused = matches!(&error, kube::Error::Api(s) if (400..500).contains(&s.code));
                        if refused || left == 0 {
                            tracing::error!(
                                %error,
                                "Cannot review who may read metrics: create on {what} (cluster-wide) is needed"
                            );
                            return None;
                        }
                    }
                }
                sleep(pause.mul_f64(rand::random_range(1.0..1.2))).await;
                pause = pause.mul_f64(1.5);
            }
            None
        };
        timeout(PATIENCE, tries).await.unwrap_or_else(|_| {
            tracing::error!("Cannot review who may read metrics: the API server does not answer ({what})");
            None
        })
    }
}

fn kept<K: Hash + Eq, T: Clone>(answers: &Mutex<LruCache<K, Kept<T>>>, question: &K) -> Option<T> {
    let mut answers = answers.lock();
    let kept = answers.get(question)?;
    (kept.until > Instant::now()).then(|| kept.answer.clone())
}

fn keep<K: Hash + Eq, T>(answers: &Mutex<LruCache<K, Kept<T>>>, question: K, answer: T, life: Duration) {
    let until = Instant::now() + life;
    answers.lock().insert(question, Kept { until, answer });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners_that_differ_in_anything_are_asked_about_apart() {
        let user = UserInfo {
            username: Some("u".into()),
            groups: Some(vec!["g".into()]),
            ..UserInfo::default()
        };
        let other_uid = UserInfo {
            uid: Some("1".into()),
            ..user.clone()
        };
        let scoped = UserInfo {
            extra: Some(BTreeMap::from([("scopes".into(), vec!["none".into()])])),
            ..user.clone()
        };
        let of = |user: &UserInfo| Question::of(user, "get", "/metrics");
        assert_eq!(of(&user), of(&user.clone()));
        assert!(of(&user) != of(&other_uid) && of(&user) != of(&scoped) && of(&other_uid) != of(&scoped));
    }

    #[test]
    fn strangers_are_reviewed_in_a_burst_and_then_ten_a_second() {
        let start = Instant::now();
        let mut rate = Rate { whole_at: start };
        let mut taken = |after| {
            let now = start + Duration::from_millis(after);
            (0..100).filter(|_| rate.take(now)).count()
        };
        assert_eq!([0, 0, 1000, 1500, 60_000].map(&mut taken), [20, 0, 10, 5, 20]);
    }
}
