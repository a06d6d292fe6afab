//! Asks the cluster who a bearer token belongs to and what its owner may read (runtime.md §3.4): TokenReview, then
//! SubjectAccessReview on a path. Answers are cached for as long as the API server itself would.

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
    /// The API server did not answer.
    Unreachable,
}

/// Reviews tokens; share it.
pub struct Reviews {
    client: Client,
    tokens: Mutex<LruCache<String, Kept<Option<UserInfo>>>>,
    access: Mutex<LruCache<Question, Kept<bool>>>,
}

type Question = (String, Vec<String>, String, String);

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
            tokens: Mutex::new(LruCache::new(KEPT)),
            access: Mutex::new(LruCache::new(KEPT)),
        }
    }

    /// May the owner of `token` do `verb` (a lower-case HTTP method) on `path`? Ends within 20 seconds.
    pub async fn review(&self, token: &str, verb: &str, path: &str) -> Review {
        let user = match kept(&self.tokens, &token.to_owned()) {
            Some(user) => user,
            None => match self.owner(token).await {
                Some(user) => {
                    let life = if user.is_some() { TOKEN.0 } else { TOKEN.1 };
                    keep(&self.tokens, token.to_owned(), user.clone(), life);
                    user
                }
                None => return Review::Unreachable,
            },
        };
        let Some(user) = user else {
            return Review::UnknownToken;
        };
        let name = user.username.clone().unwrap_or_default();
        let groups = user.groups.clone().unwrap_or_default();
        let question = (name.clone(), groups, verb.to_owned(), path.to_owned());
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
