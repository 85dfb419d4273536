//! What an order's page shows, kept small: nearly all orders show the same, but for a domain and a
//! status.

use std::{
    borrow::Cow,
    ops::{Deref, DerefMut},
    sync::{Arc, OnceLock},
};

use serde::{Deserialize, Serialize};

use super::validation::PostPaymentData;

/// The `data` of `!getPostPaymentStatus` of one order, without its `orderNumber`; in JSON it is
/// that whole.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(into = "PostPaymentData", from = "PostPaymentData")]
pub struct ShownData(Kept);

#[derive(Debug, Clone)]
enum Kept {
    /// What [`PostPaymentData::processed_ssl_for`] shows for this domain, with another status.
    Ssl { domain: Box<str>, status: Cow<'static, str>, whole: OnceLock<Box<PostPaymentData>> },
    /// Anything else. Copies of a world share it.
    Other(Arc<PostPaymentData>),
}

/// What has to be kept of an order's page.
pub(super) enum Parts<'a> {
    /// The domain and the status of one that else shows the usual.
    Ssl { domain: &'a str, status: &'a str },
    /// All of it.
    Other(&'a Arc<PostPaymentData>),
}

const PROCESSED: &str = "Processed";

impl ShownData {
    /// An issued single-domain SSL order.
    pub fn ssl(domain: &str) -> ShownData {
        ShownData(Kept::Ssl { domain: domain.into(), status: Cow::Borrowed(PROCESSED), whole: OnceLock::new() })
    }

    /// What it is made of again.
    pub(super) fn of(parts: Parts<'_>) -> ShownData {
        ShownData(match parts {
            Parts::Ssl { domain, status } => {
                Kept::Ssl { domain: domain.into(), status: Cow::Owned(status.to_owned()), whole: OnceLock::new() }
            }
            Parts::Other(data) => Kept::Other(data.clone()),
        })
    }

    pub(super) fn parts(&self) -> Parts<'_> {
        match &self.0 {
            Kept::Ssl { domain, status, .. } => Parts::Ssl { domain, status },
            Kept::Other(data) => Parts::Other(data),
        }
    }

    /// All of it.
    pub fn data(&self) -> PostPaymentData {
        match &self.0 {
            Kept::Ssl { domain, status, .. } => ssl(domain, status),
            Kept::Other(data) => PostPaymentData::clone(data),
        }
    }

    /// `orderStatus`.
    pub fn status(&self) -> Option<&str> {
        match &self.0 {
            Kept::Ssl { status, .. } => Some(status),
            Kept::Other(data) => data.order_status.as_deref(),
        }
    }

    /// Shows another `orderStatus`, and tells which one it was.
    pub(super) fn set_status(&mut self, new: &'static str) -> Option<String> {
        match &mut self.0 {
            Kept::Ssl { status, whole, .. } => {
                whole.take();
                Some(std::mem::replace(status, Cow::Borrowed(new)).into_owned())
            }
            Kept::Other(data) => Arc::make_mut(data).order_status.replace(new.to_owned()),
        }
    }
}

fn ssl(domain: &str, status: &str) -> PostPaymentData {
    PostPaymentData { order_status: Some(status.to_owned()), ..PostPaymentData::processed_ssl_for(domain) }
}

/// For whoever reads single fields of it from Rust: the whole is made then.
impl Deref for ShownData {
    type Target = PostPaymentData;

    fn deref(&self) -> &PostPaymentData {
        match &self.0 {
            Kept::Ssl { domain, status, whole } => whole.get_or_init(|| Box::new(ssl(domain, status))),
            Kept::Other(data) => data,
        }
    }
}

/// For whoever sets single fields of it from Rust: then it is kept whole.
impl DerefMut for ShownData {
    fn deref_mut(&mut self) -> &mut PostPaymentData {
        if let Kept::Ssl { .. } = self.0 {
            self.0 = Kept::Other(Arc::new(self.data()));
        }
        match &mut self.0 {
            Kept::Other(data) => Arc::make_mut(data),
            Kept::Ssl { .. } => unreachable!("it was made whole above"),
        }
    }
}

impl From<PostPaymentData> for ShownData {
    fn from(data: PostPaymentData) -> ShownData {
        match (&data.domain_name, &data.order_status) {
            (Some(domain), Some(status)) if data == ssl(domain, status) => ShownData(Kept::Ssl {
                domain: domain.as_str().into(),
                status: Cow::Owned(status.clone()),
                whole: OnceLock::new(),
            }),
            _ => ShownData(Kept::Other(Arc::new(data))),
        }
    }
}

impl From<ShownData> for PostPaymentData {
    fn from(shown: ShownData) -> PostPaymentData {
        shown.data()
    }
}

impl PartialEq for ShownData {
    fn eq(&self, other: &Self) -> bool {
        self.data() == other.data()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_small_shows_the_same() {
        let others = [
            PostPaymentData::default(),
            PostPaymentData::everything(),
            PostPaymentData { product_term: Some(1), ..PostPaymentData::processed_ssl() },
        ];
        for data in others {
            assert_eq!(ShownData::from(data.clone()).data(), data);
        }
        let mut shown = ShownData::from(PostPaymentData::processed_ssl_for("a.example"));
        assert!(matches!(shown.0, Kept::Ssl { .. }));
        assert_eq!(shown, ShownData::ssl("a.example"));
        assert_eq!(shown.set_status("Refunded").as_deref(), Some(PROCESSED));
        assert_eq!(shown.status(), Some("Refunded"));
        assert_eq!(shown.order_status.as_deref(), Some("Refunded"));
        shown.order_status = Some("Pending".to_owned());
        assert_eq!((shown.status(), shown.domain_name.as_deref()), (Some("Pending"), Some("a.example")));
        let again: ShownData = serde_json::from_value(serde_json::to_value(&shown).unwrap()).unwrap();
        assert_eq!(again.data(), shown.data());
    }
}
