//! What an order's page shows, kept small: nearly all orders show the same, but for a domain and a status.

use std::{borrow::Cow, sync::Arc};

use serde::{Deserialize, Serialize};

use super::validation::PostPaymentData;

/// The `data` of `!getPostPaymentStatus` of one order, without its `orderNumber`; in JSON it is that whole.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(into = "PostPaymentData", from = "PostPaymentData")]
pub struct ShownData(Kept);

#[derive(Debug, Clone)]
enum Kept {
    /// What [`PostPaymentData::processed_ssl_for`] shows for this domain, with another status.
    Ssl { domain: Box<str>, status: Cow<'static, str> },
    /// Anything else. Copies of a world share it.
    Other(Arc<PostPaymentData>),
}

const PROCESSED: &str = "Processed";

impl ShownData {
    /// An issued single-domain SSL order.
    pub fn ssl(domain: &str) -> ShownData {
        ShownData(Kept::Ssl { domain: domain.into(), status: Cow::Borrowed(PROCESSED) })
    }

    /// All of it.
    pub fn data(&self) -> PostPaymentData {
        match &self.0 {
            Kept::Ssl { domain, status } => ssl(domain, status),
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
            Kept::Ssl { status, .. } => Some(std::mem::replace(status, Cow::Borrowed(new)).into_owned()),
            Kept::Other(data) => Arc::make_mut(data).order_status.replace(new.to_owned()),
        }
    }
}

fn ssl(domain: &str, status: &str) -> PostPaymentData {
    PostPaymentData { order_status: Some(status.to_owned()), ..PostPaymentData::processed_ssl_for(domain) }
}

impl From<PostPaymentData> for ShownData {
    fn from(data: PostPaymentData) -> ShownData {
        match (&data.domain_name, &data.order_status) {
            (Some(domain), Some(status)) if data == ssl(domain, status) => {
                ShownData(Kept::Ssl { domain: domain.as_str().into(), status: Cow::Owned(status.clone()) })
            }
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
        let again: ShownData = serde_json::from_value(serde_json::to_value(&shown).unwrap()).unwrap();
        assert_eq!(again.data(), shown.data());
    }
}
